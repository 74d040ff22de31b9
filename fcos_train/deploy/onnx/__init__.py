"""Exports a trained detector to an ONNX file that is verified against PyTorch.

:func:`fcos_train.deploy.onnx.export.export` does all of it; the other modules are its steps.
"""
