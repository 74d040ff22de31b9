"""The export to RDK boards: its files, what is refused, and the compiler's quantised ONNX as a session.

The compiler is proprietary and not here: ``hb_mapper`` and ``horizon_tc_ui`` in these tests are fakes that write and
read files of the compiler's kinds. ``FCOS_RDK_TOOLCHAIN`` with the real one runs the last test.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from fcos_train.cli.main import main
from fcos_train.deploy.artefact import open_artefact
from fcos_train.deploy.parts.description import read_description
from fcos_train.deploy.parts.target import Conversion
from fcos_train.deploy.rdk import toolchain
from fcos_train.deploy.rdk.board.runtimes import USUAL_SCALE
from fcos_train.deploy.rdk.mapper_config import X3, X5, mapper_config, pixels, write_calibration
from fcos_train.deploy.rdk.mapper_session import BoardSession, QuantisedRuntime
from fcos_train.deploy.rdk.target import RdkX5
from mmcv_overrides.errors import UserError
from tests.support.small_detectors import small_config, write_checkpoint

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[4]
SHAPE = ("--shape", "64", "96")
DESCRIPTION = {
    "classes": ["a"] * 4, "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "bgr_to_rgb": True,
    "input": {"name": "input_image", "example_shape": [4, 6]}, "resize": {"keep_ratio": True}, "outputs": [],
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv(toolchain.VARIABLE, raising=False)
    monkeypatch.setattr(toolchain, "default_folder", lambda: tmp_path / "no compiler")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(3):
        small = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(small, (96, 64), interpolation=cv2.INTER_CUBIC))
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pth", small_config("fcos-centre")))


@pytest.fixture(scope="module")
def exported(checkpoint, images, tmp_path_factory):
    """An export without the compiler: its YAML file, and what was printed."""
    folder = tmp_path_factory.mktemp("exported")
    words = [checkpoint, "--target", "rdk-x5", *SHAPE, "--data-path", images, "--output-file", str(folder / "m_x5.bin")]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(toolchain.VARIABLE, raising=False)
        patch.setattr(toolchain, "default_folder", lambda: folder / "no compiler")
        assert main(["export", *words]) == 0
    return folder / "m_x5.yaml"


def test_without_the_compiler_everything_up_to_it_is_written(exported):
    folder = exported.parent
    names = ["m_x5.onnx", "m_x5.yaml", "m_x5.yaml.json", "m_x5_calibration_f32"]
    assert sorted(path.name for path in folder.iterdir()) == names
    model = onnx.load(str(folder / "m_x5.onnx"))
    assert model.ir_version <= 7 and model.opset_import[0].version == 11
    shapes = [tuple(d.dim_value for d in output.type.tensor_type.shape.dim) for output in model.graph.output]
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert len(set(weights)) == len(weights) > 5  # the compiler changes them, level by level
    planes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    assert shapes == [(1, *plane, channels) for channels in (4, 4, 1) for plane in planes]
    files = sorted((folder / "m_x5_calibration_f32").iterdir())
    assert [file.name for file in files] == ["0000.bgrchw", "0001.bgrchw", "0002.bgrchw"]
    assert all(file.stat().st_size == 3 * 64 * 96 * 4 for file in files)
    description = read_description(folder / "m_x5.yaml.json")
    assert (description["target"], description["rdk"]["march"], description["rdk"]["optimize_level"]) == (
        "rdk-x5", "bayes-e", "O3"
    )  # fmt: skip


@pytest.mark.parametrize("board", [X5, X3])
def test_the_yaml_of_each_board(board):
    content = mapper_config(board, DESCRIPTION, "m", "m_calibration_f32", "O2")
    model, image = content["model_parameters"], content["input_parameters"]
    assert model["march"] == {"RDK X5": "bayes-e", "RDK X3": "bernoulli2"}[board.name]
    assert model.get("remove_node_type") == {"RDK X5": "Dequantize", "RDK X3": None}[board.name]
    assert (model["onnx_model"], model["output_model_file_prefix"]) == ("./m.onnx", "m")
    assert (image["input_type_rt"], image["input_type_train"], image["input_layout_train"]) == ("nv12", "rgb", "NCHW")
    assert (image["input_shape"], image["input_space_and_range"]) == ("1x3x4x6", "bt601_video")
    assert [float(word) for word in image["mean_value"].split()] == [123.675, 116.28, 103.53]
    scales = [float(word) for word in image["scale_value"].split()]
    assert scales == pytest.approx([1 / 58.395, 1 / 57.12, 1 / 57.375], rel=1e-8)
    assert content["compiler_parameters"]["optimize_level"] == "O2"
    assert content["calibration_parameters"]["cal_data_dir"] == "./m_calibration_f32"


def test_the_yaml_file_is_read_back_by_any_yaml_reader(exported):
    assert yaml.safe_load(exported.read_text())["compiler_parameters"] == {
        "compile_mode": "latency", "optimize_level": "O3", "core_num": 1
    }  # fmt: skip


def test_calibration_files_are_pixels_in_the_order_of_training(tmp_path):
    image = np.zeros((4, 3, 3), np.uint8)
    image[:] = (1, 2, 250)  # BGR
    assert write_calibration(tmp_path / "set", DESCRIPTION, [image]) == 1
    written = np.fromfile(tmp_path / "set" / "0000.rgbchw", "<f4").reshape(3, 4, 6)
    assert written[:, :, :3].reshape(3, -1).T.tolist() == [[250, 2, 1]] * 12
    assert written[:, 0, 5].tolist() == [124, 116, 104]  # the border is the mean, which is 0 after normalisation
    normalised = (written - np.float32(DESCRIPTION["mean"]).reshape(3, 1, 1)) / np.float32(DESCRIPTION["std"]).reshape(
        3, 1, 1
    )
    np.testing.assert_array_equal(pixels(normalised, DESCRIPTION), written)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("fcos-centre", ["--shape", "64", "100"], r"--shape 64 100: give multiples of 32 \(FPN upsamples"),
        ("fcos-centre", ["--opset", "13", *SHAPE], "opset 13: the compiler reads opset 10 and 11"),
        ("fcos-centre", ["--precision", "fp16", *SHAPE], "--precision fp16: --target rdk-x5 has int8"),
        ("fcos-centre", [*SHAPE, "--batch", "2"], "--batch does not apply to --target rdk-x5"),
        ("fcos-centre", [*SHAPE, "--optimize-level", "O4"], "--optimize-level O4: choose from O0, O1, O2, O3"),
        ("fcos-centre", [*SHAPE, "--output-file", "m.bin"], "--output-file m.bin: must end in _x5.bin"),
        ("fcos-centre", [*SHAPE, "--data-path", "empty"], "--data-path empty: the folder is empty"),
        ("fcos-centre", [*SHAPE, "--data-path", "broken"], "broken.png"),
        ("fcos-centre", [*SHAPE, "--data-path", None], "int8 needs images to measure the ranges"),
        ("fcos-bn", [*SHAPE], "train with model.bbox_head.norm_on_bbox=True"),
        ("retinanet", [*SHAPE], "RetinaHead has no distances with a centerness"),
    ],
)
def test_what_cannot_be_converted_is_refused(name, words, message, checkpoint, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/broken.png").write_bytes(b"no image")
    path = checkpoint if name == "fcos-centre" else str(write_checkpoint(Path("other.pth"), small_config(name)))
    words = [path, "--target", "rdk-x5", *([] if "--data-path" in words else ["--data-path", images]), *words]
    words = words[:-2] if words[-1] is None else words
    before = sorted(Path().iterdir())
    assert main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and len(said.splitlines()) == 1
    assert sorted(Path().iterdir()) == before


def test_the_compilers_level_is_refused_for_other_targets(checkpoint, capsys):
    assert main(["export", checkpoint, "--target", "openvino", "--optimize-level", "O3"]) == 2
    assert "--optimize-level does not apply to --target openvino" in capsys.readouterr().err


def test_bifpn_needs_multiples_of_its_largest_stride():
    class BiFPN:
        """Stands for the neck: its name counts."""

    model = type("Model", (), {"neck": BiFPN(), "bbox_head": type("Head", (), {"norm_on_bbox": True})()})()
    outputs = [{"part": part, "stride": s} for part in ("cls", "box", "ctr") for s in (8, 16, 32, 64, 128)]
    given = {**DESCRIPTION, "outputs": outputs, "decode": {"kind": "distance"}, "opset": 11}
    faults = [RdkX5().faults({**given, "input": {"example_shape": shape}}, model) for shape in ([512, 640], [512, 608])]
    assert faults == [[], ["--shape 512 608: give multiples of 128 (BiFPN upsamples from stride 128 by 2)"]]


# ---- sessions ----


def test_the_emulation_rounds_to_the_scales_and_sees_the_colours_of_nv12(exported):
    description = read_description(exported.with_name("m_x5.yaml.json"))
    session = open_artefact(exported, description)
    image = np.random.default_rng(0).integers(0, 256, (3, 64, 96)).astype(np.float32)
    mean = np.float32(description["mean"]).reshape(3, 1, 1)
    maps = session.run((image - mean)[None])
    grey = np.repeat(image[:1], 3, 0)  # grey keeps its value through NV12, up to the rounding of luma
    assert [m.shape[-1] for m in maps] == [4] * 10 + [1] * 5
    np.testing.assert_array_equal(maps[0] / USUAL_SCALE, np.rint(maps[0] / USUAL_SCALE))
    whole = open_artefact(exported.with_name("m_x5.onnx"), description).run((grey - mean)[None])
    emulated = session.run((grey - mean)[None])
    assert max(np.abs(a - b).max() for a, b in zip(emulated, whole)) < 0.12


FAKE_RUNTIME = '''
"""A fake of the vendor's package: it returns known integers for the image that it is given."""
import numpy as np


class HB_ONNXRuntime:
    def __init__(self, onnx_model):
        print("a line that must not disturb the messages")
        self.names = [output.name for output in onnx_model.graph.output]

    def run(self, outputs, feed):
        (image,) = feed.values()
        assert set(outputs) <= set(self.names) and image.dtype == np.int8
        if image[0, 0, 0, 0] == -128:
            raise RuntimeError("black images are not taken")
        half = image.astype(np.int32)[:, ::2, ::2, :2]
        return [half if name == "raw" else image.astype(np.float32) for name in outputs]
'''


def _quantised(path):
    """A file of the kind that the compiler writes: an int32 value, dequantised with one scale per channel."""
    helper, kinds = onnx.helper, onnx.TensorProto
    scale = onnx.numpy_helper.from_array(np.array([0.5, 0.25], np.float32), "scale")
    nodes = [
        helper.make_node("HzSomething", ["image"], ["raw"], domain="horizon"),
        helper.make_node("HzDequantize", ["raw", "scale"], ["P3logits"], domain="horizon"),
        helper.make_node("HzSomething", ["image"], ["P3bbox_reg"], domain="horizon"),
    ]
    image = helper.make_tensor_value_info("image", kinds.INT8, [1, 4, 6, 3])
    outputs = [helper.make_tensor_value_info(name, kinds.FLOAT, None) for name in ("P3logits", "P3bbox_reg")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [image], outputs, [scale])), str(path))


@pytest.fixture()
def fake_toolchain(tmp_path):
    """A folder in the form of the installed compiler, with fakes inside."""
    folder = tmp_path / "fake_compiler"
    (folder / "bin").mkdir(parents=True)
    (folder / "horizon_tc_ui.py").write_text(FAKE_RUNTIME)
    launcher = f'#!/bin/sh\n[ "$1" = -I ] && shift\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n'
    (folder / "bin" / "python").write_text(launcher)
    (folder / "bin" / "python").chmod(0o755)
    return toolchain.Toolchain(folder)


def test_the_quantised_model_in_the_compilers_python(fake_toolchain, tmp_path):
    path = tmp_path / "m_x5_quantized_model.onnx"
    _quantised(path)
    description = {
        **DESCRIPTION,
        "outputs": [{"name": "P3bbox_reg", "shape": [1, 4, 6, 3]}, {"name": "P3logits", "shape": [1, 2, 3, 2]}],
    }
    runtime = QuantisedRuntime(path, description, fake_toolchain)
    assert [(o.name, o.shape, None if o.scales is None else o.scales.tolist()) for o in runtime.outputs] == [
        ("P3logits", (1, 2, 3, 2), [0.5, 0.25]), ("P3bbox_reg", (1, 4, 6, 3), None)
    ]  # fmt: skip
    session = BoardSession(path, description, runtime)
    mean, std = (np.float32(description[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    box, logits = session.run(((np.full((3, 4, 6), 200, np.float32) - mean) / std)[None])
    luma = 188 - 128  # of grey 200, BT.601 limited range: 16 + 200 * 219 / 255
    assert box[0, 0, 0].tolist() == [luma, 0, 0] and logits[0, 0, 0].tolist() == [luma * 0.5, 0.0]
    with pytest.raises(UserError, match="the compiler's runtime: .*black images are not taken"):
        runtime.run(np.zeros(4 * 6 * 3 // 2, np.uint8))
    runtime.run(np.full(4 * 6 * 3 // 2, 99, np.uint8))  # it is still alive
    runtime.close()
    with pytest.raises(UserError, match="it does not belong to its description"):
        outputs = [{"name": "P4logits", "shape": [1, 1, 1, 1]}, *description["outputs"]]
        BoardSession(path, {**description, "outputs": outputs}, runtime)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "there is no such file"), (b"cut off", "Error parsing message")]
)
def test_a_missing_or_damaged_quantised_model(content, message, fake_toolchain, tmp_path):
    path = tmp_path / "m_x5_quantized_model.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        QuantisedRuntime(path, DESCRIPTION, fake_toolchain)


FAKE_MAPPER = """#!/bin/sh
# A fake of the vendor's compiler: the table that it prints, and files of its names.
if [ "$1" = "$FAKE_FAILS" ]; then echo "2026-01-01 00:00:00,000 ERROR the model is not to its taste"; exit 1; fi
if [ "$*" = "checker --model-type onnx --march bayes-e --model m_x5.onnx" ]; then [ -f m_x5.onnx ]; exit; fi
stem=${3%.yaml}
mkdir -p "${stem}_model_output"
[ -n "$FAKE_LEAVES_NOTHING" ] || cp "$FAKE_QUANTISED" "${stem}_model_output/${stem}_quantized_model.onnx"
echo compiled > "${stem}_model_output/${stem}.bin"
echo '{"summary": {"FPS": 348.34, "DDR bytes per frame": 7, "BPU OPs per frame (effective)": 9}}' \
    > "${stem}_model_output/g_subgraph_0.json"
echo "INFO FPS=348.34, latency = 2870.7 us, DDR = 7 bytes"
echo "Node   ON   Subgraph  Type   Cosine Similarity  Threshold  DataType"
echo "-----"
echo "conv1  BPU  id(0)     Conv   0.999              1.0        int8"
"""


@pytest.fixture()
def fake_mapper(fake_toolchain, tmp_path, monkeypatch):
    """The fake compiler as the installed one."""
    mapper = fake_toolchain.folder / "bin" / "hb_mapper"
    mapper.write_text(FAKE_MAPPER)
    mapper.chmod(0o755)
    _quantised(tmp_path / "quantised.onnx")
    monkeypatch.setenv("FAKE_QUANTISED", str(tmp_path / "quantised.onnx"))
    monkeypatch.setenv(toolchain.VARIABLE, str(fake_toolchain.folder))


def test_what_the_compiler_says_is_in_the_table_and_in_the_description(fake_mapper, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)  # no Graphviz
    (tmp_path / "job").mkdir()
    outputs = [{"name": "P3logits", "shape": [1, 2, 3, 2]}, {"name": "P3bbox_reg", "shape": [1, 4, 6, 3]}]
    said, description = [], {**DESCRIPTION, "outputs": outputs}
    image = np.zeros((4, 6, 3), np.uint8)
    output = tmp_path / "job" / "m_x5.bin"
    job = Conversion(
        tmp_path / "quantised.onnx",
        description,
        output,
        "int8",
        lambda n: [image],
        {"optimize_level": "O1"},
        said.append,
    )
    RdkX5().convert(job)
    rdk = description["rdk"]
    assert rdk["predicted"] == {"fps": 348.34, "latency": 1000 / 348.34, "ddr": 7, "operations": 9}
    assert rdk["scales"] == {"P3logits": [0.5, 0.25]} and rdk["optimize_level"] == "O1"
    assert said[-5:] == [
        "note: hb_perf draws the compiled model only where Graphviz is installed",
        "RDK X5 (bayes-e), optimize_level O1",
        "  predicted, 1 core     348.34 FPS     2.871 ms  0.00 MB of memory traffic an image, 0.00 G operations",
        "nodes: 1 on the BPU, 0 on the CPU; the least similar ones and up to 10 on the CPU:",
        "  conv1  BPU  Conv                      cosine 0.999000",
    ]
    names = [".bin", ".yaml", ".onnx", "_quantized_model.onnx", "_hb_mapper.log", "_calibration_f32"]
    assert [file.name for file in RdkX5().files(output)] == [f"m_x5{name}" for name in names]
    assert RdkX5().next_steps(output)[0].startswith("for the board: fcos-train rdk board-folder FOLDER --model ")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("FAKE_FAILS", "checker", "hb_mapper checker failed with status 1: .*ERROR the model is not to its taste"),
        ("FAKE_FAILS", "makertbin", "hb_mapper makertbin failed with status 1: .*ERROR the model is not to its taste"),
        ("FAKE_LEAVES_NOTHING", "1", "hb_mapper left no m_x5_quantized_model.onnx"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing(
    setting, value, message, checkpoint, images, fake_mapper, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(setting, value)
    output = tmp_path / "out" / "m_x5.bin"
    words = [checkpoint, "--target", "rdk-x5", *SHAPE, "--data-path", images, "--output-file", str(output)]
    assert main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and len(said.splitlines()) == 1 and list(output.parent.iterdir()) == []


def test_a_variable_that_names_another_folder_is_refused(checkpoint, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(toolchain.VARIABLE, str(tmp_path))
    assert main(["export", checkpoint, "--target", "rdk-x3", *SHAPE, "--data-path", images]) == 2
    said = capsys.readouterr().err
    assert f"FCOS_RDK_TOOLCHAIN={tmp_path}: hb_mapper is not installed there; run bash scripts/" in said


def test_a_bin_without_the_compiler_says_what_is_needed(tmp_path):
    (tmp_path / "m_x5.bin").write_bytes(b"compiled")
    with pytest.raises(UserError, match="needs the compiler of the boards: bash scripts/setup_rdk_toolchain.sh"):
        open_artefact(tmp_path / "m_x5.bin", DESCRIPTION)


# ---- set-up script ----


def test_the_set_up_script_tries_the_python_that_it_is_given(tmp_path):
    environment = {**os.environ, "PYTHON310": sys.executable, "HOME": str(tmp_path)}
    script = ["bash", str(ROOT / "scripts" / "setup_rdk_toolchain.sh"), str(tmp_path / "there")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not (tmp_path / "there").exists()
    assert f"error: PYTHON310={sys.executable} does not run as Python 3.10" in done.stderr


def test_the_versions_of_the_set_up_script_are_in_the_documents():
    script = (ROOT / "scripts" / "setup_rdk_toolchain.sh").read_text()
    text = (ROOT / "docs" / "deployment-rdk.md").read_text()
    for package in ("rdkx5-yolo-mapper==1.0.0", "dgdk==1.0.0", "dg_nn_toolkit==1.0.0"):
        assert package in script and package in text


# ---- the folder for a board ----


ALONE = """
import sys
for name in ("torch", "mmengine", "mmcv", "mmdet", "mmcv_overrides", "fcos_train", "onnx", "scipy", "yaml"):
    sys.modules[name] = None  # an import of it fails
sys.path.insert(0, "")
sys.argv = ["rdk_demo.py", "--test-img", sys.argv[1], "--img-save-path", "out.png", "--conf-thres", "0.5"]
import runpy
runpy.run_path("rdk_demo.py", run_name="__main__")
"""


def _objects(text):
    return [line.partition("] [INFO] ")[2] for line in text.splitlines() if " -> " in line]


def test_the_board_folder_runs_without_torch_and_gives_the_same_boxes(exported, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = str(Path(images) / "0.png")
    model = str(exported.with_name("m_x5.onnx"))
    assert main(["rdk", "board-folder", "board", "--model", model]) == 0
    here = ["rdk-demo", "--model-path", str(exported), "--test-img", image, "--img-save-path", "here.png"]
    assert main([*here, "--conf-thres", "0.5"]) == 0
    expected = _objects(capsys.readouterr().out)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, image], cwd="board", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(expected) > 1 and _objects(done.stdout) == expected
    np.testing.assert_array_equal(cv2.imread("board/out.png"), cv2.imread("here.png"))
    names = {path.name for path in Path("board").iterdir() if path.name != "out.png"}
    assert names == {"fcos_rdk", "m_x5.onnx", "m_x5.onnx.json", "rdk_demo.py"}


def test_the_board_folder_does_not_overwrite(exported, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["rdk", "board-folder", str(tmp_path), "--model", str(exported.with_name("m_x5.onnx"))]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert main(["rdk", "board-folder", str(tmp_path / "new"), "--model", str(exported)]) == 2
    assert "give the .bin (or .onnx) file of an export to rdk-x5 or rdk-x3" in capsys.readouterr().err


# ---- the real compiler ----


@pytest.mark.skipif("FCOS_RDK_TOOLCHAIN" not in os.environ, reason="the vendor's compiler is not installed")
def test_the_real_compiler(checkpoint, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(toolchain.VARIABLE, REAL)
    path = tmp_path / "m_x5.bin"
    words = [checkpoint, "--target", "rdk-x5", *SHAPE, "--data-path", images, "--output-file", str(path)]
    assert main(["export", *words, "--optimize-level", "O0"]) == 0
    description = json.loads((tmp_path / "m_x5.bin.json").read_text())
    assert len(description["rdk"]["removed_nodes"]) == 15 and description["rdk"]["predicted"]["fps"] > 50
    assert [len(scale) for scale in description["rdk"]["scales"].values()] == [4] * 10 + [1] * 5


REAL = os.environ.get("FCOS_RDK_TOOLCHAIN", "")
