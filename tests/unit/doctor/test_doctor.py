"""doctor: what it finds on broken and on healthy installations, and how it repairs OpenCV."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fcos_train.cli import doctor
from fcos_train.doctor import checks as doctor_checks
from fcos_train.doctor import opencv as doctor_opencv
from mmcv_overrides.errors import UserError

HEALTHY = {
    "torch": "2.13.0+cpu",
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
}


@pytest.fixture
def installed(monkeypatch):
    """The distributions that the mm and torch checks see; changed by the tests."""
    found = dict(HEALTHY)
    monkeypatch.setattr(doctor_checks, "_version", found.get)
    monkeypatch.setattr(doctor_checks, "opencv_fault", lambda: None)
    return found


def by_name(checks):
    return {check.name: check for check in checks}


def run_doctor(capsys, **flags) -> tuple[int, str]:
    status = doctor.run(doctor.DoctorOptions(**flags))
    return status, capsys.readouterr().out


def test_this_installation(capsys):
    """It runs this test suite, so nothing is a problem."""
    status, text = run_doctor(capsys, json=True)
    report = json.loads(text)
    checks = {check["name"]: check for check in report["checks"]}
    assert [c for c in report["checks"] if c["status"] == "problem"] == []
    assert (status, report["healthy"]) == (0, True)
    assert list(checks) == [
        "python", "torch", "mmengine", "mmcv", "mmdet", "opencv", "operators", "cuda", "npu", "device",
    ]  # fmt: skip
    assert "onedl-mmcv" in checks["mmcv"]["detail"]
    assert checks["operators"]["detail"].startswith("mmcv._ext: ")


def test_text_report(monkeypatch, capsys):
    checks = [
        doctor_checks.Check("python", "ok", "3.11"),
        doctor_checks.Check("torch", "problem", "not installed", "pip install torch==2.13.0"),
    ]
    monkeypatch.setattr(doctor, "run_checks", lambda: checks)
    status, text = run_doctor(capsys)
    assert status == 1
    assert text.splitlines() == [
        "ok      python  3.11",
        "PROBLEM torch   not installed",
        "                fix: pip install torch==2.13.0",
        "1 problem",
    ]


def test_tested_versions_are_ok(installed):
    checks = by_name(doctor_checks.check_mm_packages() + doctor_checks.check_torch())
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(
        ("mmengine", "mmcv", "mmdet", "torch"), "ok"
    )


def test_missing_package(installed):
    del installed["onedl-mmcv"]
    check = by_name(doctor_checks.check_mm_packages())["mmcv"]
    assert (check.status, check.fix) == ("problem", "pip install onedl-mmcv==2.3.6")
    check = by_name(doctor_checks.check_operators())["operators"]
    assert (check.status, check.fix) == ("problem", "pip install onedl-mmcv==2.3.6")


def test_fork_and_upstream_over_each_other(installed):
    installed["mmcv"] = "2.1.0"
    check = by_name(doctor_checks.check_mm_packages())["mmcv"]
    assert check.status == "problem"
    assert check.detail == "onedl-mmcv 2.3.6, mmcv 2.1.0 were installed over each other"
    assert check.fix == "pip uninstall -y onedl-mmcv mmcv && pip install --no-deps onedl-mmcv==2.3.6"


def test_upstream_instead_of_the_fork(installed):
    del installed["onedl-mmdetection"]
    installed["mmdet"] = "3.3.0"
    check = by_name(doctor_checks.check_mm_packages())["mmdet"]
    assert check.status == "note"
    assert check.fix == "pip uninstall -y mmdet && pip install onedl-mmdetection==3.5.1"


def test_other_version_than_tested(installed):
    installed["onedl-mmengine"] = "0.10.9"
    check = by_name(doctor_checks.check_mm_packages())["mmengine"]
    assert (check.status, check.detail) == ("note", "onedl-mmengine 0.10.9; tested with 0.10.12")


def test_package_that_does_not_import(installed, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmdet", None)
    check = by_name(doctor_checks.check_mm_packages())["mmdet"]
    assert (check.status, check.fix) == (
        "problem",
        "pip install --force-reinstall --no-deps onedl-mmdetection==3.5.1",
    )
    assert "import fails: ModuleNotFoundError" in check.detail


def test_old_torch(installed):
    installed["torch"] = "2.1.2"
    (check,) = doctor_checks.check_torch()
    assert check.status == "problem"
    assert "torch <2.15,>=2.4 is needed" in check.detail


def test_missing_torch(installed, monkeypatch):
    del installed["torch"]
    monkeypatch.setitem(sys.modules, "torch", None)
    (check,) = doctor_checks.check_torch()
    assert (check.status, check.fix) == ("problem", "pip install torch==2.13.0")
    (check,) = doctor_checks.check_accelerators()
    assert check.status == "note"


def test_unsupported_python(monkeypatch):
    monkeypatch.setattr(doctor_checks.platform, "python_version", lambda: "3.9.18")
    (check,) = doctor_checks.check_python()
    assert (check.status, check.fix) == ("problem", "python3.11 -m venv .venv")


@pytest.mark.parametrize(
    "error, fix",
    [
        (
            "libascendcl.so: cannot open shared object file",
            "source /usr/local/Ascend/ascend-toolkit/set_env.sh",
        ),
        ("undefined symbol _ZN3c10", "pip install --force-reinstall --no-deps torch-npu==2.13.0"),
    ],
)
def test_broken_torch_npu_is_shown(installed, monkeypatch, tmp_path, error, fix):
    installed["torch-npu"] = "2.13.0"
    (tmp_path / "torch_npu.py").write_text(f"raise ImportError({error!r})")
    monkeypatch.syspath_prepend(tmp_path)
    check = by_name(doctor_checks.check_accelerators())["npu"]
    assert check.status == "problem"
    assert check.detail == f"torch_npu 2.13.0 is installed, import fails: ImportError: {error}"
    assert check.fix == fix


def test_device_that_is_not_available(monkeypatch):
    from mmcv_overrides import device

    def pick(requested):
        raise UserError("none here")

    monkeypatch.setattr(device, "pick", pick)
    (check,) = doctor_checks.check_device()
    assert (check.status, check.detail) == ("problem", "UserError: none here")


def test_check_that_crashes_is_a_problem(monkeypatch):
    def crash():
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(doctor_checks, "check_torch", crash)
    check = by_name(doctor_checks.run_checks())["torch"]
    assert (check.status, check.detail) == ("problem", "cannot be checked: RuntimeError: unforeseen")


# -- OpenCV ------------------------------------------------------------------------------------------------


class Pip:
    """Stands in for pip: keeps the commands, and which distributions are there."""

    def __init__(self, monkeypatch, distributions: dict[str, str], fault: str | None = None, failing: str = ""):
        self.distributions, self.fault, self.failing = distributions, fault, failing
        self.commands: list[list[str]] = []
        monkeypatch.setattr(doctor_opencv, "opencv_distributions", lambda: dict(self.distributions))
        stub = types.SimpleNamespace(cache_clear=lambda: None)
        monkeypatch.setattr(doctor_opencv, "opencv_fault", lambda: self.fault)
        doctor_opencv.opencv_fault.cache_clear = stub.cache_clear

    def __call__(self, command):
        arguments = command[command.index("pip") + 2 :]
        self.commands.append(arguments)
        if arguments[0] == self.failing:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no network")
        if arguments[0] == "download":
            (Path(arguments[arguments.index("--dest") + 1]) / "opencv.whl").write_text("")
        if arguments[0] == "uninstall":
            self.distributions.clear()
        if arguments[0] == "install":
            self.distributions["opencv-python-headless"] = "1"
            self.fault = None
        return subprocess.CompletedProcess(command, 0, "", "")

    def fix(self) -> tuple[bool, list[str]]:
        lines: list[str] = []
        return doctor_opencv.fix_opencv(lines.append, self), lines

    def verbs(self) -> list[str]:
        return [command[0] for command in self.commands]


BOTH = {"opencv-python": "4.12.0.88", "opencv-python-headless": "4.12.0.88"}


def test_fix_keeps_the_headless_one(monkeypatch):
    pip = Pip(monkeypatch, dict(BOTH), fault="libGL.so.1")
    done, lines = pip.fix()
    assert done
    assert pip.verbs() == ["download", "uninstall", "install"]
    assert pip.commands[0][-1] == "opencv-python-headless==4.12.0.88"
    assert pip.commands[1][1:] == ["-y", "opencv-python", "opencv-python-headless"]
    assert "--no-deps" in pip.commands[2]
    assert lines[0] == "opencv: opencv-python-headless 4.12.0.88, import cv2 works"
    assert "`pip check` will say that opencv-python is missing" in lines[1]


def test_fix_again_changes_nothing(monkeypatch):
    pip = Pip(monkeypatch, {"opencv-python-headless": "4.12.0.88"})
    assert pip.fix() == (True, ["opencv: opencv-python-headless 4.12.0.88 is installed alone and works, nothing to do"])
    assert pip.commands == []


def test_fix_without_network_removes_nothing(monkeypatch):
    pip = Pip(monkeypatch, dict(BOTH), failing="download")
    done, lines = pip.fix()
    assert (done, pip.verbs(), pip.distributions) == (False, ["download"], BOTH)
    assert lines[0] == "opencv: pip download failed: ERROR: no network"


def test_fix_that_cannot_put_it_back_says_the_command(monkeypatch):
    pip = Pip(monkeypatch, dict(BOTH), failing="install")
    done, lines = pip.fix()
    assert not done
    assert lines[-1].endswith("run: pip install --no-deps opencv-python-headless==4.12.0.88")


@pytest.mark.parametrize(
    "distributions, wanted",
    [
        ({"opencv-python": "4.11.0.86"}, ("opencv-python-headless", "4.11.0.86")),
        ({**BOTH, "opencv-python": "4.11.0.86"}, ("opencv-python-headless", "4.12.0.88")),
        ({**BOTH, "opencv-contrib-python": "4.10.0.84"}, ("opencv-contrib-python-headless", "4.10.0.84")),
        ({}, ("opencv-python-headless", "4.12.0.88")),
    ],
)
def test_which_opencv_stays(distributions, wanted):
    assert doctor_opencv.opencv_wanted(distributions) == wanted


@pytest.mark.parametrize(
    "distributions, fault, status, fix",
    [
        (BOTH, None, "note", "fcos-train doctor --fix"),
        (BOTH, "ImportError: libGL.so.1: cannot open", "problem", "fcos-train doctor --fix"),
        ({"opencv-python-headless": "4.12.0.88"}, None, "ok", ""),
        ({}, "No module named 'cv2'", "problem", "pip install --no-deps opencv-python-headless==4.12.0.88"),
    ],
)
def test_opencv_check(monkeypatch, distributions, fault, status, fix):
    monkeypatch.setattr(doctor_checks, "opencv_distributions", lambda: distributions)
    monkeypatch.setattr(doctor_checks, "opencv_fault", lambda: fault)
    (check,) = doctor_checks.check_opencv()
    assert (check.status, check.fix) == (status, fix)
    assert ("needs libGL" in check.detail) == (fault is None and len(distributions) > 1 or "libGL" in str(fault))


def test_failed_fix_is_status_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "fix_opencv", lambda log: False)
    monkeypatch.setattr(doctor, "run_checks", lambda: [doctor_checks.Check("python", "ok", "3.11")])
    assert run_doctor(capsys, fix=True)[0] == 1
