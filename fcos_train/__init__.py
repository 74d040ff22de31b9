"""FCOS-Train: train dense object detectors on NPU, GPU or CPU, then ship them."""

__version__ = "0.1.0"
