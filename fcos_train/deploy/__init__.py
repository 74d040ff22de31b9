"""Deployment of trained detectors: ONNX export, a decoder in numpy, and one package per target."""
