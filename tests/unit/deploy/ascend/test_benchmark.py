"""The table of batch sizes and models: its arithmetic, and what runs the models."""

import re
from itertools import count

import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.ascend import benchmark
from fcos_train.deploy.ascend.benchmark import Row, table
from fcos_train.deploy.ascend.options import BenchmarkOptions

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a model of any batch and one of batch 4, and an ais_bench that says batch x 10 images/s."""
    monkeypatch.chdir(tmp_path)
    for name, batch in (("open", "batch"), ("bs4", 4)):
        graph = helper.make_graph(
            [helper.make_node("Identity", ["input"], ["dets"])],
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, (batch, 3, 4, 6))],
            [helper.make_tensor_value_info("dets", TensorProto.FLOAT, (batch, 3, 4, 6))],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), f"{name}.onnx")
    tool = tmp_path / "bin" / "ais_bench"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --batchsize) n=$2 ;; --model) m=$2 ;; esac; shift; done\n"
        'echo "[INFO] throughput 1000*batchsize.mean($n)/NPU_compute_time.mean(100.0): $((n * 10)).0"\n'
        "[ $m != fails_bs1.om ]\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    return tmp_path


def test_the_arithmetic_of_the_table() -> None:
    options = BenchmarkOptions(model=("a.om", "b.onnx"), batch_sizes=(1, 8, 16), chips=4)
    rows = [Row(1, (10.0, 5.0)), Row(8, (40.0, 50.0)), Row(16, (32.5, None))]
    assert table(options, rows) == [
        "| batch | a.om, images/s | 4 chips | b.onnx, images/s | 4 chips | ratio to the first |",
        "| --- | --- | --- | --- | --- | --- |",
        "| 1 | 10.00 | 40.00 | 5.00 | 20.00 | 0.50 |",
        "| 8 | 40.00 | 160.00 | 50.00 | 200.00 | 1.25 |",
        "| 16 | 32.50 | 130.00 | - | - | - |",
        "best batch of a.om: 8, 40.00 images/s, 160.00 images/s of 4 chips",
        "best batch of b.onnx: 8, 50.00 images/s, 200.00 images/s of 4 chips",
    ]


def test_onnxruntime_and_a_card(work, capsys, monkeypatch) -> None:
    for batch in (1, 4):
        (work / f"m_bs{batch}.om").write_bytes(b"om")
    ticks = count()
    monkeypatch.setattr("fcos_train.deploy.ascend.infer.time.perf_counter", lambda: next(ticks) * 0.5)  # a call: 0.5 s
    words = ["--model", "open.onnx", "m_bs{}.om", "--batch-sizes", "1", "4", "--rounds", "3"]
    assert main(["ascend", "benchmark", *words]) == 0
    out = capsys.readouterr().out
    assert "| 1 | 2.00 | 10.00 | 5.00 |" in out and "| 4 | 8.00 | 40.00 | 5.00 |" in out
    assert "best batch of m_bs{}.om: 4, 40.00 images/s\n" in out


def test_a_batch_that_a_model_cannot_run_is_left_out_with_a_line(work, capsys) -> None:
    assert main(["ascend", "benchmark", "--model", "bs4.onnx", "--batch-sizes", "1", "4", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("bs4.onnx, batch 1: left out: ")
    assert "| 1 | - |" in out and re.search(r"^\| 4 \| \d+\.\d\d \|$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "none.onnx"], "--model none.onnx: no such file: none.onnx"),
        (["--model", "m_bs{}.om", "--batch-sizes", "2"], "--model m_bs{}.om: no such file: m_bs2.om"),
        (
            ["--model", "bs4.onnx", "--batch-sizes", "1", "2"],
            "it runs none of the batch sizes; export it with --dynamic",
        ),
        (["--model", "fails_bs1.om", "--batch-sizes", "1"], "ais_bench on fails_bs1.om ended with status 1"),
    ],
)
def test_refusals(work, capsys, words, message) -> None:
    (work / "fails_bs1.om").write_bytes(b"om")
    assert main(["ascend", "benchmark", *words, "--rounds", "1"]) == 2
    assert message in capsys.readouterr().err


def test_speed_is_images_over_seconds() -> None:
    assert benchmark.THROUGHPUT.findall(
        "[INFO] throughput 1000*batchsize.mean(8)/NPU_compute_time.mean(9): 8.5e+02"
    ) == ["8.5e+02"]
