"""Inference: load a trained detector once, call it on many images, draw the detections."""
