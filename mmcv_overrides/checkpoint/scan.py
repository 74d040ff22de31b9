"""Lists the globals that a pickle names by disassembling it; nothing is executed or imported.

``torch.serialization.get_unsafe_globals_in_checkpoint`` (torch >= 2.6) cannot replace it: it reads neither the format
of torch < 1.6 nor plain pickles, stops at opcodes outside protocol 2 (``STACK_GLOBAL``, ``INST``, ``OBJ``), and of two
``data.pkl`` in one archive it reads the first, Python's zipfile the last.
"""

from __future__ import annotations

import io
import pickletools
from typing import BinaryIO

from mmcv_overrides.checkpoint.limits import is_zip, open_archive

_MAX_PICKLES = 5  # the format of torch < 1.6 is five pickles in a row


def globals_named_in(file: BinaryIO) -> list[str]:
    """``module.name`` of every global in a file of torch.save (zip or older) or pickle.dump, each once."""
    names: dict[str, None] = {}
    try:
        if is_zip(file):
            with open_archive(file) as archive:
                member = next(m for m in archive.namelist() if m.endswith("data.pkl"))
                _scan(io.BytesIO(archive.read(member)), names)
        else:
            file.seek(0)
            for _ in range(_MAX_PICKLES):
                _scan(file, names)
    except Exception:  # a damaged or foreign file: the names before the damage are still useful
        pass
    return list(names)


def _scan(stream: BinaryIO, names: dict[str, None]) -> None:
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, arg, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            names[str(arg).replace(" ", ".", 1)] = None
        elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
            names[".".join(strings[-2:])] = None
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(arg, int):
            memo[arg] = strings[-1] if strings else ""
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET") and isinstance(arg, int):
            strings.append(memo.get(arg, ""))
        elif isinstance(arg, str):
            strings.append(arg)
