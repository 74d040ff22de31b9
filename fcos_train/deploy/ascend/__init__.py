"""Offline inference on Ascend: from images to `.bin`, through a converted model, and back to COCO mAP.

Every step reads and writes the files of the original toolchains (`benchmark`, `ais_infer`, `get_info.py`, ...), so
steps can be exchanged one by one. onnxruntime stands in for the card where there is none.
"""
