"""One OpenCV, the one that needs no libGL.

The mm packages depend on ``opencv-python`` and on ``opencv-python-headless``, and both install the same folder ``cv2``.
The one that was installed last wins; ``opencv-python`` needs libGL, which servers lack, and removing one of the two
leaves a broken half of the other. So both are removed, and the headless one is installed again.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from fcos_train.doctor.versions import tested

HEADLESS = "opencv-python-headless"
# Each GUI build (which needs libGL) and its headless twin.
TWINS = {"opencv-contrib-python": "opencv-contrib-python-headless", "opencv-python": HEADLESS}
PROBE = "import cv2, numpy; cv2.resize(numpy.zeros((4, 4, 3), numpy.uint8), (2, 2)); print(cv2.__version__)"

Run = Callable[[list[str]], subprocess.CompletedProcess[str]]


def opencv_distributions() -> dict[str, str]:
    """The installed OpenCV distributions and their versions."""
    found = {}
    for name in (*TWINS, *TWINS.values()):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def opencv_fault() -> str | None:
    """Why `import cv2` fails, tried in a process of its own (half a cv2 may crash); None if it works."""
    result = _run([sys.executable, "-c", PROBE])
    if result.returncode == 0:
        return None
    lines = (result.stderr or "").strip().splitlines()
    return lines[-1] if lines else f"the process ended with status {result.returncode}"


def opencv_wanted(installed: dict[str, str]) -> tuple[str, str]:
    """The one distribution to keep, and its version: headless; with the contrib modules if they were there."""
    for gui, headless in TWINS.items():
        if gui in installed or headless in installed:
            return headless, installed.get(headless) or installed[gui]
    return HEADLESS, tested(HEADLESS)


def fix_opencv(log: Callable[[str], None] = print, run: Run | None = None) -> bool:
    """Leave one headless OpenCV in place, at the version that is installed.

    The wheel is fetched before anything is removed, so a machine without a network keeps what it has.

    Args:
        log: called with one line of progress at a time.
        run: runs a command; given by tests.

    Returns:
        True if OpenCV works afterwards, also when nothing had to be done.
    """
    run = run or _run
    installed = opencv_distributions()
    name, version = opencv_wanted(installed)
    if list(installed) == [name] and opencv_fault() is None:
        log(f"opencv: {name} {version} is installed alone and works, nothing to do")
        return True
    with tempfile.TemporaryDirectory() as folder:
        wheel = _fetch(f"{name}=={version}", Path(folder), log, run)
        if wheel is None:
            return False
        if installed and not _pip(["uninstall", "-y", *installed], log, run):
            return False
        if not _pip(["install", "--no-deps", "--force-reinstall", str(wheel)], log, run):
            log(f"opencv: removed, but not installed again; run: pip install --no-deps {name}=={version}")
            return False
    opencv_fault.cache_clear()
    fault = opencv_fault()
    outcome = f"import cv2 still fails: {fault}" if fault else "import cv2 works"
    log(f"opencv: {name} {version}, {outcome}")
    if "opencv-python" in installed:
        log("opencv: `pip check` will say that opencv-python is missing; cv2 is installed all the same")
    return fault is None


def _fetch(requirement: str, folder: Path, log: Callable[[str], None], run: Run) -> Path | None:
    if not _pip(["download", "--no-deps", "--dest", str(folder), requirement], log, run):
        log(f"opencv: left as it is, because {requirement} cannot be fetched")
        return None
    return next(folder.iterdir(), None)


def _pip(arguments: list[str], log: Callable[[str], None], run: Run) -> bool:
    result = run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments])
    if result.returncode != 0:
        lines = (result.stderr or result.stdout or "").strip().splitlines() or ["no message"]
        log(f"opencv: pip {arguments[0]} failed: {lines[-1]}")
    return result.returncode == 0


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
