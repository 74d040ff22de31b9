"""Checks the keys of a config against the parts that they configure, and translates those of mmdet 2.x."""
