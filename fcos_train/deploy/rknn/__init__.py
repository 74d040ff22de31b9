"""Rockchip NPUs: `.rknn` files in fp16 or int8, compiled and simulated by the vendor's toolkit in another Python."""
