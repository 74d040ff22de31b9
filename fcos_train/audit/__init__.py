"""What one training step of a config asks of an accelerator, in counts: launches, syncs, shapes, operators."""
