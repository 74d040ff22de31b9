"""Builds the simulated device, once per torch version and source text."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import torch

SOURCES = sorted((Path(__file__).parent / "csrc").glob("*.cpp"))
HEADERS = sorted((Path(__file__).parent / "csrc").glob("*.h"))


def missing_tools() -> str | None:
    """Why the device cannot be built here; None if it can."""
    if shutil.which("g++") is None and shutil.which("c++") is None:
        return "the simulated NPU needs a C++ compiler (g++), which is not on PATH"
    if shutil.which("ninja") is None:
        return "the simulated NPU needs ninja, which is not on PATH"
    return None


def library() -> Path:
    """Path of the built extension. A compiler error raises, because it is an error in the sources."""
    from torch.utils import cpp_extension

    text = torch.__version__ + "".join(path.read_text() for path in SOURCES + HEADERS)
    name = f"npu_sim_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    folder = Path(cpp_extension._get_build_directory(name, verbose=False))
    built = folder / f"{name}.so"
    if not built.is_file():
        _compile(name, folder)
    return built


def _compile(name: str, folder: Path) -> None:
    """Compile and link in a separate process: a device loaded into this one cannot be unloaded."""
    code = (
        "import sys; from torch.utils.cpp_extension import load; name, folder, *sources = sys.argv[1:]; "
        "load(name, sources, extra_cflags=['-O1', '-g0', '-std=c++20'], build_directory=folder)"
    )
    command = [sys.executable, "-c", code, name, str(folder), *map(str, SOURCES)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the simulated NPU does not compile:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    print(missing_tools() or library())
