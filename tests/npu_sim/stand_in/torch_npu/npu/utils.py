"""``torch_npu.npu.utils``."""


def get_soc_version() -> int:
    """An Ascend 910B2's number."""
    return 221
