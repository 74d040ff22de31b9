"""From a trained detector to an ONNX file that has been proved to give the same answer.

:func:`fcos_train.deploy.onnx.export.export` is the whole way; the other modules are its steps.
"""
