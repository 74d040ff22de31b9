"""A portable ``mmcv._ext``: the compiled operators that detectors need, written in torch, for any device.

The Python layers of mmcv (``mmcv.ops``) use it unchanged: they look functions up in ``mmcv._ext`` by name.
"""

import importlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

NAME = "mmcv._ext"


def install() -> str:
    """Make ``import mmcv.ops`` work: keep a compiled ``mmcv._ext`` that loads, otherwise install the portable one.

    Call it before ``import mmcv.ops`` or ``import mmdet``; calling it again changes nothing.

    Returns:
        One line for the log: which operators are in use, and why.
    """
    import mmcv

    from mmcv_overrides.ops import ext, vision

    found, reason = _find_compiled()
    if found is not None:
        return f"mmcv operators: compiled ({found.__file__})"
    stale = _imported_before(ext)
    sys.modules[NAME] = ext
    mmcv._ext = ext
    return f"mmcv operators: portable, in torch ({reason}; {vision.status}){stale}"


def _find_compiled() -> tuple[ModuleType | None, str]:
    """(the compiled module or None, why there is none)."""
    absent = "mmcv was installed without compiled operators"
    present = sys.modules.get(NAME)
    if present is None:
        try:
            present = importlib.import_module(NAME)
        except ModuleNotFoundError as error:
            if error.name != NAME:
                return None, f"the compiled operators do not load: {error}"
            return None, absent
        except Exception as error:  # built for another torch: undefined symbols, missing libraries
            return None, f"the compiled operators do not load: {str(error).splitlines()[0]}"
    compiled = str(getattr(present, "__file__", None) or "").endswith(tuple(EXTENSION_SUFFIXES))
    return (present, "") if compiled else (None, absent)


def _imported_before(ext: ModuleType) -> str:
    """A warning if ``mmcv.ops`` has already been imported with another ``mmcv._ext``; otherwise "".

    A failed import of ``mmcv.ops`` leaves no module behind and can be repeated.
    """
    if "mmcv.ops" not in sys.modules or sys.modules.get(NAME) is ext:
        return ""
    return (
        "; mmcv.ops was imported earlier with another mmcv._ext and still uses it: call activate() before that import"
    )
