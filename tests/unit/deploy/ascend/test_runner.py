"""The runner's files: names, bytes, perf texts and summaries as `benchmark` and `ais_infer` write them."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.ascend.infer import Clocks
from fcos_train.deploy.ascend.perf import benchmark_lines

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts" / "ascend"
H, W = 4, 6
ROWS = np.arange(500, dtype=np.float32).reshape(1, 100, 5)
LABELS = np.arange(100, dtype=np.int64).reshape(1, 100) % 80


def model(path: Path, batch=1, flat=False, order=("dets", "labels"), size=(H, W)) -> Path:
    """dets = mean of the input + ROWS, labels = LABELS; `flat` omits the batch axis, as in Cascade R-CNN."""
    make = helper.make_node
    nodes = [
        make("ReduceMean", ["input"], ["mean"], axes=[1, 2, 3], keepdims=1),
        make("Reshape", ["mean", "column"], ["means"]),
        make("Add", ["means", "rows"], ["all_dets"]),
        make("Cast", ["means"], ["whole"], to=TensorProto.INT64),
        make("Mul", ["whole", "zero"], ["nothing"]),
        make("Reshape", ["nothing", "line"], ["nothings"]),
        make("Add", ["nothings", "ids"], ["all_labels"]),
    ]
    if flat:
        nodes += [
            make("Squeeze", ["all_dets", "first"], ["dets"]),
            make("Squeeze", ["all_labels", "first"], ["labels"]),
        ]
    else:
        nodes += [make("Identity", ["all_dets"], ["dets"]), make("Identity", ["all_labels"], ["labels"])]
    weights = {
        "column": np.array([-1, 1, 1]),
        "line": np.array([-1, 1]),
        "rows": ROWS,
        "ids": LABELS,
        "zero": np.array(0),
        "first": np.array([0]),
    }
    kinds = {"dets": TensorProto.FLOAT, "labels": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (batch, 3, *size))],
        [helper.make_tensor_value_info(name, kinds[name], None) for name in order],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path)
    return path


def dets(value: int) -> bytes:
    return b"".join(struct.pack("<f", value + i) for i in range(500))


LABEL_BYTES = b"".join(struct.pack("<q", i % 80) for i in range(100))


@pytest.mark.parametrize("batch,flat", [(1, False), (1, True), (2, False), ("batch", False)])
def test_benchmark_layout_counts_from_one_and_splits_batches(tmp_path, bins, monkeypatch, capsys, batch, flat):
    monkeypatch.chdir(tmp_path)
    path = model(tmp_path / "m.onnx", batch, flat)
    size = 2 if batch == "batch" else batch
    words = [
        f"-om_path={path}",
        "-device_id=3",
        f"-batch_size={size}",
        "-input_text_path=coco.info",
        f"-input_width={W}",
    ]
    words += [f"-input_height={H}", "-useDvpp=false", "-output_binary=true", "-model_type=vision"]
    assert main(["ascend", "infer", *words]) == 0
    folder = tmp_path / "result" / "dumpOutput_device3"
    assert sorted(p.name for p in folder.iterdir()) == [f"img{i}_{k}.bin" for i in range(3) for k in (1, 2)]
    for value in range(3):
        assert (folder / f"img{value}_1.bin").read_bytes() == dets(value)
        assert (folder / f"img{value}_2.bin").read_bytes() == LABEL_BYTES
    check_perf((tmp_path / "result" / f"perf_vision_batchsize_{size}_device_3.txt").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "-----------------Performance Summary------------------"
    assert [line.split("]")[0] for line in printed[1:6]] == [
        "[e2e", "[data read", "[preprocess", "[inference", "[postprocess"
    ]  # fmt: skip


def check_perf(text: str) -> None:
    number = r"\d[\d.e+-]*"
    module = f"throughputRate: {number}, moduleLatency: {number}\n"
    infer = rf"\[infer\] throughputRate: {number}, Interface throughputRate: {number}, moduleLatency: {number}\n"
    pattern = rf"\[e2e\] throughputRate: {number}, latency: {number}\n"
    pattern += rf"\[data read\] {module}\[preprocess\] {module}{infer}\[post\] {module}"
    assert re.fullmatch(pattern, text), text
    # How the published parse.py finds the rate of the model alone: the 8th field of the form ":value,".
    fields = re.findall(r":\s*([^,:]+),", text.replace("\n", ","))
    assert fields[7] == re.search(rf"Interface throughputRate: ({number})", text)[1]


def test_perf_figures_are_those_of_the_clocks():
    clocks = Clocks(
        start=10.0,
        end=14.0,
        reading=[0.5, 0.5],
        preparing=[0.25, 0.25],
        computing=[1.0, 0.5],
        writing=[0.1, 0.1],
        samples=4,
    )
    assert benchmark_lines(clocks) == [
        "[e2e] throughputRate: 1, latency: 4000",
        "[data read] throughputRate: 4, moduleLatency: 250",
        "[preprocess] throughputRate: 8, moduleLatency: 125",
        "[infer] throughputRate: 2, Interface throughputRate: 2.66667, moduleLatency: 500",
        "[post] throughputRate: 20, moduleLatency: 50",
    ]


def test_ais_layout_counts_from_zero_and_has_a_summary(tmp_path, bins, capsys):
    path = model(tmp_path / "m.onnx")
    words = ["--model", str(path), "--input", str(bins), "--output", str(tmp_path / "out"), "--layout", "ais"]
    assert main(["ascend", "infer", *words]) == 0
    (folder,) = [p for p in (tmp_path / "out").iterdir() if p.is_dir()]
    assert re.fullmatch(r"\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d", folder.name)
    assert (folder / "img2_0.bin").read_bytes() == dets(2)
    assert (folder / "img2_1.bin").read_bytes() == LABEL_BYTES
    assert len(list(folder.iterdir())) == 6
    summary = json.loads((tmp_path / "out" / f"{folder.name}_summary.json").read_text())
    assert summary["filesinfo"]["1"] == {
        "infiles": [str(bins / "img1.bin")],
        "outfiles": [str(folder / "img1_0.bin"), str(folder / "img1_1.bin")],
    }
    assert set(summary["filesinfo"]) == {"0", "1", "2"}
    for key in ("NPU_compute_time", "H2D_latency", "D2H_latency"):
        assert list(summary[key]) == ["min", "max", "mean", "median", "percentile(99%)", "count"]
        assert summary[key]["count"] == 3 and 0 < summary[key]["min"] <= summary[key]["max"]
    assert summary["throughput"] == pytest.approx(1000 / summary["NPU_compute_time"]["mean"])
    assert isinstance(summary["pid"], int) and isinstance(summary["args"], list)
    assert "NPU_compute_time" in capsys.readouterr().out


def test_ais_formats_and_directory_name(tmp_path, bins):
    path = model(tmp_path / "m.onnx", order=("labels", "dets"))
    words = ["--model", path, "--input", f"{bins}/img1.bin,{bins}/img0.bin", "--output", tmp_path, "--layout", "ais"]
    assert main(["ascend", "infer", *map(str, words), "--output_dirname", "run", "--outfmt", "NPY"]) == 0
    assert (np.load(tmp_path / "run" / "img1_1.npy") == ROWS + 1).all()
    assert (np.load(tmp_path / "run" / "img0_0.npy") == LABELS).all()
    assert main(["ascend", "infer", *map(str, words), "--output_dirname", "text", "--outfmt", "TXT"]) == 0
    assert (tmp_path / "text" / "img0_1.txt").read_text().splitlines()[1] == "5 6 7 8 9"


def test_pure_inference_prints_and_leaves_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "fsaf_bs1.onnx")
    assert main(["ascend", "infer", "-om_path=fsaf_bs1.onnx", "-device_id=0", "-round=3", "-batch_size=1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    where = "./result/PureInfer_perf_of_fsaf_bs1_in_device_0.txt"
    assert printed[0] == f"[INFO] PureInfer result saved in {where}"
    assert printed[1] == "-----------------PureInfer Performance Summary------------------"
    line = r"ave_throughputRate: \d[\d.e+]*samples/s, ave_latency: \d[\d.e-]*ms"
    assert re.fullmatch(r"\[INFO\] " + line, printed[2]) and re.fullmatch(line + "\n", Path(where).read_text())


@pytest.mark.parametrize("change", [-4, 4])
def test_wrong_byte_count_stops_before_anything_ran(tmp_path, bins, capsys, change):
    good = (bins / "img1.bin").read_bytes()
    (bins / "img1.bin").write_bytes(good[:-4] if change < 0 else good + b"\0" * 4)
    words = ["--model", str(model(tmp_path / "m.onnx")), "--input", str(bins), "--output", str(tmp_path / "out")]
    assert main(["ascend", "infer", *words]) == 2
    message = capsys.readouterr().err
    assert f"img1.bin has {288 + change} bytes" in message and "288 per image" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words,part",
    [
        (["--model", "absent.onnx", "--input", "bins"], "absent.onnx: no such file"),
        (["--model", "m.onnx"], "--input: give an info file"),
        (["--model", "m.onnx", "--input", "nowhere.info"], "cannot read the info file nowhere.info"),
        (["--model", "m.onnx", "--input", "nowhere.bin"], "1 of 1 input files do not exist: nowhere.bin"),
        (["--model", "m.onnx", "--input", "bins", "--batch-size", "2"], "made for batch 1, not 2"),
        (["--model", "m.onnx", "--input", "bins", "--input-width", "9"], "made for width 6, not 9"),
        (["--model", "any.onnx", "--input", "bins"], "takes any height: give one"),
        (["--model", "flat.onnx", "--input", "bins", "--batch-size", "2"], "takes one image at a time"),
        (["--model", "m.txt", "--input", "bins"], "cannot be loaded by onnxruntime"),
        (["--model", "m.om", "--input", "bins"], "ais_bench is not installed"),
        (["--model", "cann.onnx", "--input", "bins"], "BatchMultiClassNMS, which only CANN executes"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, bins, monkeypatch, capsys, words, part):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    model(tmp_path / "m.onnx")
    model(tmp_path / "any.onnx", "batch", size=("height", "width"))
    model(tmp_path / "flat.onnx", 2)
    flat = onnx.load("flat.onnx")  # an output without a batch side
    flat.graph.node[-1].CopyFrom(helper.make_node("Identity", ["first"], ["labels"]))
    onnx.save(flat, "flat.onnx")
    for name in ("m.txt", "m.om"):
        Path(name).write_bytes(b"not a model")
    foreign = onnx.load("m.onnx")
    foreign.graph.node[-1].op_type = "BatchMultiClassNMS"
    onnx.save(foreign, "cann.onnx")
    assert main(["ascend", "infer", *words]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    "words,batch",
    [
        (["--dymHW", f"{H},{W}"], 1),
        (["--dymBatch", "2", "--dymHW", f"{H},{W}"], 2),
        (["--dymDims", f"input:2,3,{H},{W}"], 2),
        (["--dymShape", f"input:2,3,{H},{W};", "--dymBatch", "2"], 2),
        (["--batchsize", "2", "--dymHW", f"{H},{W}"], 2),
    ],
)
def test_shapes_of_a_dynamic_model(tmp_path, bins, capsys, words, batch):
    path = model(tmp_path / "m.onnx", "batch", size=("height", "width"))
    fixed = [
        "--model",
        path,
        "--input",
        bins,
        "--output",
        tmp_path / "out",
        "--layout",
        "ais",
        "--output_dirname",
        "run",
    ]
    assert main(["ascend", "infer", *map(str, fixed), *words, "--debug", "1", "--loop", "2"]) == 0
    assert [(tmp_path / "out" / "run" / f"img{i}_0.bin").read_bytes() for i in range(3)] == [dets(i) for i in range(3)]
    summary = json.loads((tmp_path / "out" / "run_summary.json").read_text())
    assert [len(call["infiles"]) for call in summary["filesinfo"].values()] == ([1, 1, 1] if batch == 1 else [2, 1])
    assert summary["NPU_compute_time"]["count"] == 2 * len(summary["filesinfo"])
    assert f"[DEBUG] input input: {batch},3,{H},{W} float32; outputs: dets, labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words,part",
    [
        (["--dymHW", "4"], "--dymHW 4: expected H,W"),
        (["--dymHW", "4,6", "--input-height", "8"], "height of the input is given twice"),
        (["--dymDims", "4,3,4,6"], "--dymDims 4,3,4,6: expected NAME:N,3,H,W"),
        (["--dymDims", "input:1,1,4,6"], "expected NAME:N,3,H,W"),
        (["--dymShape", "data:1,3,4,6"], "has the input input, not data"),
        (["--dymBatch", "2", "--batchsize", "4"], "batch of the input is given twice, and differently"),
        (["--dymBatch", "-1"], "--dymBatch -1: must be at least 0"),
        (["--loop", "0"], "--loop 0: must be at least 1"),
        (["--profiler"], "--profiler needs a card"),
        (["--dump", "1", "--acl_json_path", "a.json"], "--dump needs a card; a graph's outputs are compared"),
        (["--auto_set_dymshape_mode", "1"], "give the shape with --dymShape"),
        (["--dymShape_range", "input:1,3,4~8,6"], "give one shape at a time with --dymShape"),
        (["--device", "0,1"], "--device 0,1: give one card, such as 0"),
        (["--debug", "maybe"], "--debug maybe: write true or false"),
        (["-useDvpp=true"], "prepare .bin files with fcos-train ascend preprocess"),
        (["-model_type=nmt"], "-model_type nmt: choose from vision"),
        (["--dymhw", "4,6"], "did you mean --dymHW?"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, bins, capsys, words, part):
    path = model(tmp_path / "m.onnx", "batch", size=("height", "width"))
    fixed = ["--model", str(path), "--input", str(bins), "--output", str(tmp_path / "out"), "--layout", "ais"]
    assert main(["ascend", "infer", *fixed, *words]) == 2
    assert part in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_flags_without_effect_are_said(tmp_path, bins, capsys):
    words = ["--model", str(model(tmp_path / "m.onnx")), "--input", str(bins), "--output", str(tmp_path / "out")]
    assert main(["ascend", "infer", *words, "--run_mode", "array", "--outputSize", "1000", "--profiler", "0"]) == 0
    text = capsys.readouterr().out
    assert "[INFO] --run_mode has no effect here" in text and "[INFO] --outputSize has no effect here" in text
    assert "--profiler" not in text


def test_pure_inference_of_ais_leaves_its_outputs(tmp_path, capsys):
    path = model(tmp_path / "m.onnx")
    words = ["--model", str(path), "--layout", "ais", "--output", str(tmp_path / "out"), "--output_dirname", "run"]
    assert main(["ascend", "infer", *words, "--loop", "4"]) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out" / "run").iterdir()} == {
        "pure_infer_data_0.bin": dets(0), "pure_infer_data_1.bin": LABEL_BYTES
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "run_summary.json").read_text())["NPU_compute_time"]["count"] == 4
    assert main(["ascend", "infer", *words, "--pure_data_type", "random"]) == 0
    (first,) = struct.unpack("<f", (tmp_path / "out" / "run" / "pure_infer_data_0.bin").read_bytes()[:4])
    assert 64 < first < 192  # the mean of pixel values drawn evenly


def test_outputs_are_split_along_another_side(tmp_path, bins):
    path = model(tmp_path / "m.onnx", 2)
    turned = onnx.load(path)
    for node, name, order in ((-2, "dets", [1, 0, 2]), (-1, "labels", [1, 0])):
        turned.graph.node[node].CopyFrom(helper.make_node("Transpose", [f"all_{name}"], [name], perm=order))
    onnx.save(turned, path)
    words = ["--model", str(path), "--input", str(bins), "--output", str(tmp_path / "out")]
    assert main(["ascend", "infer", *words]) == 2
    assert main(["ascend", "infer", *words, "--output_batchsize_axis", "1"]) == 0
    folder = tmp_path / "out" / "dumpOutput_device0"
    assert [(folder / f"img{i}_1.bin").read_bytes() for i in range(3)] == [dets(i) for i in range(3)]
    assert (folder / "img2_2.bin").read_bytes() == LABEL_BYTES


@pytest.mark.parametrize("name", ["benchmark.x86_64", "benchmark.aarch64"])
def test_benchmark_under_its_old_name(tmp_path, bins, name):
    path = model(tmp_path / "m.onnx")
    words = [f"-om_path={path}", "-input_text_path=coco.info", "-device_id=0", "-model_type=vision", "-useDvpp=false"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([SCRIPTS / name, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result" / "dumpOutput_device0" / "img2_1.bin").read_bytes() == dets(2)


def test_ais_bench_under_its_own_name(tmp_path, bins):
    words = [
        "--model",
        str(model(tmp_path / "m.onnx")),
        "--input",
        str(bins),
        "--output",
        "out",
        "--output_dirname",
        "run",
    ]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [SCRIPTS / "ais_bench", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "run" / "img2_0.bin").read_bytes() == dets(2)


def test_results_of_an_earlier_run_are_named(tmp_path, bins, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = model(tmp_path / "m.onnx")
    words = ["ascend", "infer", "--model", str(path), "--input", str(bins)]
    assert main(words) == 0 and "earlier run" not in capsys.readouterr().out
    assert main([*words, "-output_binary=false"]) == 0
    note = "note: result/dumpOutput_device0 also has 6 files of an earlier run: img0_1.bin, img0_2.bin, "
    assert note in capsys.readouterr().out
