"""Config -> runner; the step; hooks. Nothing else builds a runner."""
