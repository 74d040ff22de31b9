"""Trained weights by name: mmdet's model index, where its files are, and downloads that are checked."""

from fcos_train.weights.index import COCO, Weights, all_weights, named, weights_fault
from fcos_train.weights.store import fetch, present

__all__ = ["COCO", "Weights", "all_weights", "fetch", "named", "present", "weights_fault"]
