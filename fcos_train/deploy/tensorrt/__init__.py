"""NVIDIA TensorRT: a verified ONNX file, the command that builds its engine, and a session on the engine."""
