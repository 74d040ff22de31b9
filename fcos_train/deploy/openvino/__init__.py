"""OpenVINO: its model format in fp32, with fp16 weights or in int8 (nncf), and its CPU runtime."""
