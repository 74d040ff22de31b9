"""examples/ncnn/fcos.cpp, compiled where a compiler is, gives the boxes of ``fcos-train ncnn-demo``."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.ncnn.classic import packed

SOURCE = Path(__file__).resolve().parents[4] / "examples" / "ncnn" / "fcos.cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    compiler = next((found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler, and there is none on PATH")
    path = tmp_path_factory.mktemp("cpp") / "fcos_decode"
    command = [compiler, "-std=c++11", "-O1", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return path


def run(program, *words, data=None) -> subprocess.CompletedProcess:
    return subprocess.run([program, *map(str, words)], input=data, capture_output=True, timeout=60)


@pytest.mark.parametrize("thresholds", [(), (0.5,), (0.3, 0.5), (0.02, 0.3), (1, 0.6)])
def test_it_prints_the_same_lines(program, network, picture, tmp_path, capsys, thresholds):
    words = [picture, network.param, network.weights, 96, 128, *thresholds, "--maps", tmp_path / "maps.bin"]
    assert main(["ncnn-demo", *map(str, words)]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) > (2 if thresholds != (1, 0.6) else 1)
    done = run(program, tmp_path / "maps.bin", *thresholds)
    assert (done.returncode, done.stdout.decode()) == (0, printed)
    assert run(program, "-", *thresholds, data=(tmp_path / "maps.bin").read_bytes()).stdout == done.stdout


def maps(places: int, logit: float) -> bytes:
    """One level of two classes in a row of places; boxes of 8 x 8 px side by side, scores falling from left."""
    logits = np.full((2, 1, places), -20.0, "f4")
    logits[1, 0] = logit - np.arange(places) * 1e-3
    return packed([(np.full((1, 1, places), 20.0, "f4"), np.full((4, 1, places), 0.5, "f4"), logits)])


def test_at_most_1000_candidates_of_a_level(program):
    lines = run(program, "-", data=maps(1200, 4.0)).stdout.decode().splitlines()
    assert lines[:3] == [
        "FPN level: 1",
        "Detect 1000 objects",
        "Bounding box: position(0 0 8 8) in category 1 with score 0.991",
    ]
    assert lines[-1].startswith("Bounding box: position(7992 0 8000 8) in category 1")


@pytest.mark.parametrize(
    ("iou_thr", "kept"),
    [(0.11, 3), (0.05, 2)],  # neighbours of 9 x 9 px share a column of 9 px: 9 / (81 + 81 - 9) = 0.0588
)
def test_sizes_count_one_more_pixel(program, iou_thr, kept):
    assert (
        run(program, "-", 0.5, iou_thr, data=maps(3, 4.0)).stdout.decode().splitlines()[1] == f"Detect {kept} objects"
    )


@pytest.mark.parametrize(
    "data",
    [b"", maps(3, 4.0)[:-1], maps(3, 4.0) + b"x", np.array([1, 8, 2, 1 << 20, 1], "<i4").tobytes(), b"\xff" * 64],
)
def test_other_files_are_refused(program, data):
    done = run(program, "-", data=data)
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.decode() == "error: - cannot be read, or does not hold maps\n"


@pytest.mark.parametrize("words", [(), ("a", "b"), ("a", "2"), ("a", "0.5", "nan"), ("a", "0.5", "0.5", "0.5")])
def test_other_words_are_refused(program, words):
    done = run(program, *words)
    assert done.returncode == 2 and done.stderr.decode().startswith("usage: ")
