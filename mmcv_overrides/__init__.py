"""Stands in for pieces of the mm runtime (work in progress: ops only)."""


def activate() -> list:
    """Put the portable operators in place of the compiled ones; more overrides follow."""
    from . import ops

    ops.install()
    return []
