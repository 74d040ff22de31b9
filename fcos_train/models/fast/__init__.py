"""The same layers, parameters and results, only faster. :mod:`.apply` has the order in which they are applied."""
