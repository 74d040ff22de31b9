"""How far a result is from the truth."""

from torch import Tensor


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Norm of the difference by the norm of the truth."""
    return ((found - truth).norm() / truth.norm()).item()
