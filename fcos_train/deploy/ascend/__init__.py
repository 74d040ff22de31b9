"""The offline inference pipeline of Ascend: from images to `.bin` files, through a converted model, to COCO mAP.

Every step reads and writes the files of the original toolchains (`benchmark`, `ais_infer`, `get_info.py`, ...), so any
step can be replaced by theirs. Without an Ascend card, onnxruntime runs the model.
"""
