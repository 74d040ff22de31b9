"""scripts/export_onnx_caffe_ncnn.sh with a fake Python: its stages, what is kept, and where it stops."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fcos_train.cli import require

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
SHAPE = "--shape 800 1088"
# FAKE: notes its arguments, and touches the files that the real command writes.
FAKE = """#!/usr/bin/env bash
echo "${*:2}" >> "$LOG"
case "$*" in *"${FAIL:-nothing}"*) exit 3 ;; *" compare "*) exit 0 ;; esac
file=${!#}
case $file in
    *.onnx) touch "$file" "${file%.onnx}.json" ;;
    *.prototxt) touch "$file" "${file%.prototxt}.caffemodel" ;;
    *.param) touch "$file" "${file%.param}.bin" ;;
esac
"""
PARTS = [
    "onnx/net.onnx",
    "onnx/net-update.onnx",
    "caffe/net-update.prototxt",
    "ncnn/net-update.param",
    "ncnn/net-update-opt.param",
]


@pytest.fixture
def chain(tmp_path):
    """Runs a script in a folder with a config and a checkpoint; its calls of the CLI, without the paths in between."""
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    for name in ("net.py", "a.pth"):
        (tmp_path / name).touch()
    log = tmp_path / "log"

    def run(*words: str, script: str = "export_onnx_caffe_ncnn.sh", **environment: str):
        log.write_text("")
        command = ["bash", str(SCRIPTS / script), *(words or ("net.py", "a.pth", "out"))]
        variables = {**os.environ, "PYTHON": str(fake), "LOG": str(log), **environment}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=variables, timeout=60)
        calls = log.read_text().replace(f"{tmp_path}/", "").splitlines()
        return done, [call for call in calls if not call.startswith("fcos_train.cli.require")]

    return run


def expected(shape: str = SHAPE) -> list[str]:
    onnx, slim, caffe, ncnn, half = (f"out/{part}" for part in PARTS)
    start = f"fcos_train export net.py a.pth {shape}"
    return [
        f"{start} --end adelaidet --opset 11 --output-file {onnx}",
        f"fcos_train simplify {onnx} {slim}",
        f"{start} --target caffe --output-file {caffe}",
        f"{start} --target ncnn --precision fp32 --output-file {ncnn}",
        f"{start} --target ncnn --precision fp16 --output-file {half}",
        f"fcos_train compare a.pth {onnx} {slim} {caffe} {ncnn} {half} --config net.py",
    ]


def test_stages_what_is_kept_and_update(chain, tmp_path):
    done, calls = chain()
    assert (done.returncode, done.stderr) == (0, "") and calls == expected()
    done, calls = chain()
    assert calls == expected()[-1:] and done.stdout.count("kept: ") == 5
    assert "older" not in done.stdout
    (tmp_path / "out/caffe/net-update.caffemodel").unlink()
    assert chain()[1] == [expected()[2], expected()[-1]]
    assert chain("net.py", "a.pth", "out", "update")[1] == expected()
    os.utime(tmp_path / "a.pth", (2**32, 2**32))
    assert chain()[0].stdout.count("it is older than") == 5


def test_a_stage_that_fails_ends_the_chain(chain):
    done, calls = chain(FAIL="--target caffe")
    assert done.returncode == 3 and calls == expected()[:3]
    assert done.stderr.startswith("error: stopped, exit status 3 of: fcos-train export ")
    done, calls = chain(FAIL="cli.require")
    assert done.returncode == 3 and calls == []


def test_folders_names_sizes_and_data_are_variables(chain, tmp_path):
    (tmp_path / "data").mkdir()
    folders = {"ONNX_DIR": "o", "CAFFE_DIR": str(tmp_path / "c d"), "NCNN_DIR": "n"}
    done, calls = chain(**folders, CASE="case", HEIGHT="192", WIDTH="256", DATA_PATH="data")
    assert done.returncode == 0
    assert calls[0].endswith("--shape 192 256 --end adelaidet --opset 11 --output-file o/case.onnx")
    assert calls[-1] == (
        "fcos_train compare a.pth o/case.onnx o/case-update.onnx c d/case-update.prototxt n/case-update.param "
        "n/case-update-opt.param --config net.py --data-path data"
    )
    assert calls[2].endswith("--shape 192 256 --data-path data --target caffe --output-file c d/case-update.prototxt")


def test_the_script_of_fcos_rt(chain):
    script = "export_onnx_caffe_ncnn_rt.sh"
    assert chain(script=script)[1] == expected("--shape 640 768")
    assert chain("net.py", "a.pth", "out", "test", script=script)[1] == [
        "fcos_train compare a.pth out/onnx/net-update.onnx --config net.py"
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("net.py",), "error: give CONFIG CKPT OUT [update|test] (see --help)"),
        (("net.py", "a.pth", "out", "all"), "error: all: give update, test or nothing"),
        (("no.py", "a.pth", "out"), "error: no config no.py"),
        (("net.py", "b.pth", "out"), "error: no checkpoint b.pth"),
    ],
)
def test_wrong_arguments(chain, words, said):
    done, calls = chain(*words)
    assert done.returncode == 2 and calls == []
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1
    assert chain(DATA_PATH="nowhere")[0].stderr == "error: DATA_PATH=nowhere: no such folder\n"


def test_packages_are_asked_for_before_the_first_stage(capsys, monkeypatch):
    assert require.main(["--simplify", "caffe"]) == 0
    assert require.main(["caffe", "tensorflow"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no target tensorflow; there are onnx, caffe")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert require.main(["--simplify"]) == 2
    assert "pip install 'fcos-train[simplify]'" in capsys.readouterr().err
