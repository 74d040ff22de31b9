"""Fetches torch_npu's wheel and makes what it needs to be imported without Ascend's software.

Everything goes to one folder outside the repository (``FCOS_CACHE``, default ``~/.cache/fcos_train``) and is made once
for each version of torch and source text.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent / "npu_sim" / "csrc"
VERSION = "2.13.0"
CACHE = Path(os.environ.get("FCOS_CACHE", "~/.cache/fcos_train")).expanduser() / f"torch_npu-{VERSION}"
SOURCES = [HERE / "csrc" / "adapter.cpp", *(SHARED / name for name in ("boxed.cpp", "counts.cpp", "hccl.cpp"))]
ADAPTER = "npu_front_end_adapter"
RUNTIME = HERE / "csrc" / "runtime.c"
# The libraries that torch_npu's libraries depend on; the first one holds all symbols.
STUBS = ("ascendcl", "hccl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel")


class Unavailable(Exception):
    """The wheel or a build tool is not available on this machine, which is not an error in the sources."""


@contextlib.contextmanager
def _filling(folder: Path):
    """A folder to fill, renamed to its final name when it is complete; another process may have been faster."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    part.mkdir(parents=True)
    try:
        yield part
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command[:4]))} ... failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout


def wheel() -> Path:
    """The folder of the unpacked wheel, downloaded if it is missing.

    The wheel is never installed: through its ``torch.backends`` entry point every ``import torch`` of the environment
    would load it. A line appended to its ``__init__`` registers the CPU kernels for it.
    """
    folder = CACHE / f"wheel-{sys.implementation.cache_tag}"
    if folder.is_dir():
        return folder
    with _filling(folder) as part:
        download = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-qq",
            "--no-deps",
            "--dest",
            str(part),
            f"torch_npu=={VERSION}",
        ]
        done = subprocess.run(download, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"torch_npu {VERSION} cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
        (packed,) = part.glob("*.whl")
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(part)
        packed.unlink()
        with open(part / "torch_npu" / "__init__.py", "a") as package:
            package.write("\n\nimport npu_front_end  # site/npu_front_end.py of the tests\n\nnpu_front_end.install()\n")
    return folder


def _imported(site: Path) -> set[str]:
    """The symbols of the runtime that torch_npu's libraries import when they are loaded; all are C names."""
    libraries = [site / "torch_npu" / "lib" / f"lib{name}.so" for name in ("torch_npu", "tensorpipe", "npu_profiler")]
    listed = _run("nm", "-D", "--undefined-only", *libraries, *site.glob("torch_npu/_C*.so"))
    return set(re.findall(r"^ +U ((?:acl|rt[A-Z]|Msprof)\w+)$", listed, re.MULTILINE))


def _stub_libraries(site: Path, folder: Path) -> None:
    headers = f"-I{site / 'torch_npu' / 'include'}"
    runtime = folder / "runtime.o"
    _run("gcc", "-c", "-fPIC", "-O1", headers, RUNTIME, "-o", runtime)
    meant = set(re.findall(r" T (\w+)$", _run("nm", runtime), re.MULTILINE))
    rest = folder / "rest.c"
    rest.write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in sorted(_imported(site) - meant)))
    for name in STUBS:
        parts = [runtime, rest] if name == STUBS[0] else [f"-L{folder}", "-Wl,--no-as-needed", f"-l{STUBS[0]}"]
        _run("gcc", "-shared", "-fPIC", "-o", folder / f"lib{name}.so", *parts, f"-Wl,-soname,lib{name}.so")


def _adapter(folder: Path) -> None:
    from torch.utils import cpp_extension

    cpp_extension.load(
        ADAPTER,
        list(map(str, SOURCES)),
        extra_cflags=["-O1", "-g0", "-std=c++20"],
        extra_include_paths=[str(SHARED)],
        build_directory=str(folder),
        is_python_module=False,
    )


def environment() -> dict[str, str]:
    """The environment variables with which ``import torch`` of a process loads the real torch_npu.

    Raises:
        Unavailable: no compiler, no wheel for this machine and torch.
        RuntimeError: something that should compile does not.
    """
    for tool in ("gcc", "g++", "nm", "ninja"):
        if shutil.which(tool) is None:
            raise Unavailable(f"needs {tool}, which is not on PATH")
    if torch.__version__.split("+")[0] != VERSION:
        raise Unavailable(f"torch_npu {VERSION} needs torch {VERSION}, this is {torch.__version__}")
    site = wheel()
    text = [torch.__version__, *(path.read_text() for path in [*SOURCES, RUNTIME, *sorted(SHARED.glob("*.h"))])]
    folder = CACHE / f"build-{sys.implementation.cache_tag}-{hashlib.sha256(''.join(text).encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        with _filling(folder) as part:
            _stub_libraries(site, part)
            _adapter(part)
    return {
        "PYTHONPATH": os.pathsep.join([str(HERE / "site"), str(site), str(HERE.parents[1])]),
        "LD_LIBRARY_PATH": str(folder),
        "NPU_FRONT_END_ADAPTER": str(folder / f"{ADAPTER}.so"),
        "TORCH_NPU_FALLBACK_CPU_DISABLE": "1",  # torch_npu refuses operators that would run on the host
        "TASK_QUEUE_ENABLE": "0",  # kernels run synchronously
    }


if __name__ == "__main__":
    try:
        for name, value in environment().items():
            print(f"export {name}={value}")
    except Unavailable as reason:
        print(f"not built: {reason}")
