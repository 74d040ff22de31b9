"""Shipping a trained detector: one room per target."""
