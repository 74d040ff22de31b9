"""int8 for onnxruntime: an ONNX file with pairs of QuantizeLinear and DequantizeLinear."""
