"""The checks of ``fcos-train doctor``. Each returns Check records; what is broken is reported, not raised."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from fcos_train.doctor.opencv import opencv_distributions, opencv_fault, opencv_wanted
from fcos_train.doctor.versions import base, needed, python_needed, tested

# import name -> (the maintained fork, upstream's distributions that install the same files)
MM_PACKAGES = {
    "mmengine": ("onedl-mmengine", ("mmengine", "mmengine-lite")),
    "mmcv": ("onedl-mmcv", ("mmcv", "mmcv-lite", "mmcv-full")),
    "mmdet": ("onedl-mmdetection", ("mmdet",)),
}
# In the folder of this repository.
REINSTALL = "pip install --force-reinstall --no-deps ."


@dataclass(frozen=True)
class Check:
    """One finding: status `ok`, `note` (worth knowing) or `problem`; `fix` is the command that repairs it."""

    name: str
    status: str
    detail: str
    fix: str = ""


def run_checks() -> list[Check]:
    """All checks, in the order in which things build on each other."""
    parts: list[tuple[str, Callable[[], list[Check]]]] = [
        ("python", check_python),
        ("torch", check_torch),
        ("mm packages", check_mm_packages),
        ("opencv", check_opencv),
        ("operators", check_operators),
        ("accelerators", check_accelerators),
        ("device", check_device),
    ]
    return [check for name, part in parts for check in _guarded(name, part)]


def _guarded(name: str, part: Callable[[], list[Check]]) -> list[Check]:
    try:
        return part()
    except Exception as error:  # a check met something that it did not foresee; the others still count
        return [Check(name, "problem", f"cannot be checked: {_text(error)}", REINSTALL)]


# -- the checks ----------------------------------------------------------------------------------------------


def check_python() -> list[Check]:
    """The interpreter is one of the supported versions."""
    version = platform.python_version()
    here = f"{version}, {platform.system()} {platform.machine()}, {sys.executable}"
    if python_needed().contains(version, prereleases=True):
        return [Check("python", "ok", here)]
    return [Check("python", "problem", f"{here}; Python {python_needed()} is needed", "python3.11 -m venv .venv")]


def check_torch() -> list[Check]:
    """torch is installed, imports, and has a supported version."""
    version = _version("torch")
    if version is None:
        return [Check("torch", "problem", "not installed", _pip(f"torch=={tested('torch')}"))]
    torch, fault = _import("torch")
    if fault:
        fix = _reinstall(f"torch=={base(version)}")
        return [Check("torch", "problem", f"{version}, import fails: {fault}", fix)]
    cuda, hip = getattr(torch.version, "cuda", None), getattr(torch.version, "hip", None)
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"
    detail = f"{torch.__version__} ({build} build)"
    if not needed("torch").contains(base(version), prereleases=True):
        fix = _pip(f"torch=={tested('torch')}")
        return [Check("torch", "problem", f"{detail}; torch {needed('torch')} is needed", fix)]
    return [_against_tested("torch", detail, "torch", version)]


def check_mm_packages() -> list[Check]:
    """mmengine, mmcv and mmdet: the maintained forks, once each, in the tested versions."""
    checks = []
    for name, (fork, upstream) in MM_PACKAGES.items():
        installed = {d: v for d in (fork, *upstream) if (v := _version(d)) is not None}
        checks.append(_mm_package(name, fork, installed))
    return checks


def _mm_package(name: str, fork: str, installed: dict[str, str]) -> Check:
    wanted = f"{fork}=={tested(fork)}"
    who = ", ".join(f"{distribution} {version}" for distribution, version in installed.items())
    if not installed:
        return Check(name, "problem", "not installed", _pip(wanted))
    if len(installed) > 1:
        fix = f"pip uninstall -y {' '.join(installed)} && {_pip(wanted, '--no-deps')}"
        return Check(name, "problem", f"{who} were installed over each other", fix)
    if name == "mmengine" or not opencv_fault():
        # mmcv and mmdet import OpenCV: its fault is reported under its own name.
        fault = _import_of(name)
        if fault:
            return Check(name, "problem", f"{who}, import fails: {fault}", _reinstall(wanted))
    if fork not in installed:
        fix = f"pip uninstall -y {' '.join(installed)} && {_pip(wanted)}"
        detail = f"{who}: upstream, without a release since 2024; tested with {wanted}"
        return Check(name, "note", detail, fix)
    return _against_tested(name, who, fork, installed[fork])


def check_opencv() -> list[Check]:
    """``import cv2`` works, and one distribution provides it."""
    installed = opencv_distributions()
    who = ", ".join(f"{name} {version}" for name, version in installed.items()) or "not installed by pip"
    fault = opencv_fault()
    if fault:
        cause = "; it is the GUI build, which needs libGL" if "libGL" in fault else ""
        fix = "fcos-train doctor --fix" if installed else _pip("==".join(opencv_wanted({})), "--no-deps")
        return [Check("opencv", "problem", f"{who}: import cv2 fails: {fault}{cause}", fix)]
    if len(installed) > 1:
        detail = f"{who}: installed over each other; works here, but {next(iter(installed))} needs libGL"
        return [Check("opencv", "note", detail, "fcos-train doctor --fix")]
    return [Check("opencv", "ok", who)]


def check_operators() -> list[Check]:
    """Whether `mmcv._ext` is compiled or this project's portable one."""
    if _version_of_any("mmcv") is None:
        fix = _pip(f"onedl-mmcv=={tested('onedl-mmcv')}")
        return [Check("operators", "problem", "mmcv is not installed", fix)]
    if opencv_fault():
        return [Check("operators", "note", "not checked: mmcv imports OpenCV, which is broken")]
    module, fault = _import("mmcv_overrides.ops")
    if fault:
        return [Check("operators", "problem", f"mmcv_overrides.ops: {fault}", REINSTALL)]
    line = module.install().removeprefix("mmcv operators: ")
    broken = "do not load" in line
    fix = f"pip install --force-reinstall --no-deps onedl-mmcv=={tested('onedl-mmcv')}" if broken else ""
    return [Check("operators", "note" if broken else "ok", f"mmcv._ext: {line}", fix)]


def check_accelerators() -> list[Check]:
    """What CUDA and torch_npu find."""
    torch, fault = _import("torch")
    if fault:
        return [Check("accelerators", "note", "not checked: torch is missing or broken")]
    return [_cuda(torch), _npu(torch)]


def _cuda(torch: Any) -> Check:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check("cuda", "ok", names)
    if not torch.version.cuda:
        return Check("cuda", "ok", "no: this torch is built without CUDA")
    detail = "no device found though torch is built with CUDA; nvidia-smi tells whether the driver is there"
    return Check("cuda", "note", detail)


def _npu(torch: Any) -> Check:
    if importlib.util.find_spec("torch_npu") is None:
        return Check("npu", "ok", "no: torch_npu is not installed")
    version = _version("torch-npu") or "of unknown version"
    module, fault = _import("torch_npu")
    if fault is None and torch.npu.is_available():
        return Check("npu", "ok", f"torch_npu {version}, {torch.npu.device_count()} devices")
    if fault is None:
        fix = "source /usr/local/Ascend/ascend-toolkit/set_env.sh && npu-smi info"
        return Check("npu", "note", f"torch_npu {version} finds no device", fix)
    detail = f"torch_npu {version} is installed, import fails: {fault}"
    return Check("npu", "problem", detail, _fix_npu(fault))


def _fix_npu(fault: str) -> str:
    """A missing shared library: CANN's environment is not set; anything else: the versions do not pair."""
    if ".so" in fault:
        return "source /usr/local/Ascend/ascend-toolkit/set_env.sh"
    return _reinstall(f"torch-npu=={base(_version('torch') or tested('torch'))}")


def check_device() -> list[Check]:
    """The device that ``--device auto`` chooses."""
    module, fault = _import("mmcv_overrides.device")
    if fault:
        return [Check("device", "note", f"not chosen: {fault}")]
    try:
        _, reason = module.pick("auto")
    except Exception as error:
        return [Check("device", "problem", _text(error), "fcos-train train ... --device cpu")]
    return [Check("device", "ok", reason)]


# -- helpers -------------------------------------------------------------------------------------------------


def _against_tested(name: str, detail: str, distribution: str, version: str) -> Check:
    wanted = tested(distribution)
    if base(version) == wanted:
        return Check(name, "ok", f"{detail}, as tested")
    return Check(name, "note", f"{detail}; tested with {wanted}", _pip(f"{distribution}=={wanted}"))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _version_of_any(name: str) -> str | None:
    fork, upstream = MM_PACKAGES[name]
    return next((v for d in (fork, *upstream) if (v := _version(d)) is not None), None)


def _import(name: str) -> tuple[Any, str | None]:
    """(module, None) or (None, what went wrong)."""
    try:
        return importlib.import_module(name), None
    except (Exception, SystemExit) as error:
        return None, _text(error)


def _import_of(name: str) -> str | None:
    """Why an mm package does not import; the portable operators come first, as in the trainer."""
    if name != "mmengine":
        operators, _ = _import("mmcv_overrides.ops")
        if operators is not None:
            operators.install()
    return _import(name)[1]


def _text(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first}"


def _pip(requirement: str, *flags: str) -> str:
    return " ".join(["pip install", *flags, requirement])


def _reinstall(requirement: str) -> str:
    return _pip(requirement, "--force-reinstall", "--no-deps")
