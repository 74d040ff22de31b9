"""What TensorRT is given: a verified ONNX file in the right number types, and the command. Engines need a GPU."""

from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed", allow_module_level=True)

import onnx

from fcos_train.cli.main import main
from fcos_train.deploy.tensorrt.engine import lacking
from tests.support.conversions import MAPS, SHAPE, Conversions, largest

without_tensorrt = pytest.mark.skipif(lacking() is None, reason="TensorRT is installed here")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Conversions(tmp_path_factory.mktemp("tensorrt"))


@without_tensorrt
def test_without_tensorrt_the_command_is_printed_and_kept(work, capsys):
    words = [work.checkpoint, "--target", "tensorrt", "--shape", *map(str, SHAPE)]
    engine = work.folder / "m.engine"
    assert main(["export", *words, "--output-file", str(engine)]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"error: {engine} was not built: the Python package tensorrt is not installed. The command is in {engine}.sh; "
        "run it where the tool is installed (--dry-run only writes it)\n"
    )
    command = (
        "trtexec --onnx=m.engine.onnx --saveEngine=m.engine --stronglyTyped --skipInference --noTF32\n"
        "if command -v polygraphy >/dev/null; then polygraphy run m.engine.onnx --trt --strongly-typed --onnxrt "
        "--atol 1e-3 --rtol 1e-3; fi\n"
    )
    script = work.folder / "m.engine.sh"
    assert script.read_text().endswith(command) and captured.out.endswith(command)
    assert script.stat().st_mode & 0o111
    assert [line.split()[0] for line in captured.out.splitlines() if "cosine" in line and "ok" in line] == MAPS
    assert sorted(path.name for path in work.folder.glob("m.engine*")) == [
        "m.engine.json", "m.engine.onnx", "m.engine.sh"
    ]  # fmt: skip
    assert main(["ascend", "evaluate", "--checkpoint", work.checkpoint, "--model", str(engine)]) == 2


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_number_types_are_in_the_file(work, precision, tmp_path):
    found, _ = work.export("tensorrt", f"{precision}.engine", precision=precision, dry_run=True)
    assert [path.name for path in found.files] == [f"{precision}.engine.onnx", f"{precision}.engine.sh"]
    graph = onnx.load(found.path).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    if precision == "fp16":
        assert {tensor.data_type for tensor in weights.values() if len(tensor.dims) == 4} == {onnx.TensorProto.FLOAT16}
        assert 1e-5 < largest(found.blobs)["cls"] < 0.1
        return
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = [onnx.numpy_helper.to_array(weights[node.input[2]]) for node in pairs]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8)}  # no uint8, no int32 biases
    assert not any(zero.any() for zero in zeros)
    filters = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    assert filters <= {node.output[0] for node in pairs}
    assert all(blob.cosine > 0.9 for blob in found.blobs)


def test_dry_run_is_an_option_of_this_target(work, capsys):
    assert main(["export", work.checkpoint, "--target", "openvino", "--dry-run"]) == 2
    assert capsys.readouterr().err == "error: --dry-run does not apply to --target openvino\n"
