"""ncnn: its graph and weight files in fp32, with fp16 weights or in int8, its runtime, and the classic FCOS demo."""
