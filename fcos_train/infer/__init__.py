"""Load a trained detector once, call it on many images, draw what it finds."""
