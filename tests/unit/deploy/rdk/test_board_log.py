"""What ``hrt_model_exec`` prints on a board. No board was at hand: the texts follow the vendor's documents."""

import json

import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.rdk.board_log import Measured, read_board_log
from mmcv_overrides.errors import UserError

INFO = """\
hrt_model_exec model_info --model_file b0_x5.bin
[BPU_PLAT]BPU Platform Version(1.3.6)!
---------------------------------------------------------------------
[model name]: b0_x5

input[0]:
name: input_image
input source: HB_DNN_INPUT_FROM_PYRAMID
valid shape: (1,3,512,512,)
aligned shape: (1,3,512,512,)
aligned byte size: 393216
tensor type: HB_DNN_IMG_TYPE_NV12
tensor layout: HB_DNN_LAYOUT_NCHW
quanti type: NONE
stride: (0,0,0,0,)

output[0]:
name: P3logits
valid shape: (1,64,64,3,)
aligned shape: (1,64,64,4,)
aligned byte size: 65536
tensor type: HB_DNN_TENSOR_TYPE_S32
tensor layout: HB_DNN_LAYOUT_NHWC
quanti type: SCALE
stride: (65536,1024,16,4,)
scale data: 0.00025,0.0005,1e-05,
quantizeAxis: 3
"""
PERF = """\
Running condition:
  Thread number is: 1
  Frame count   is: 200
  Program run time: 662.1 ms
Perf result:
  Frame totally latency is: 651.2 ms
  Average    latency    is: 3.256 ms
  Frame      rate       is: 302.068 FPS
Frame count: 200,  Thread Average: 3.2 ms,  thread max latency: 3.9 ms,  thread min latency: 3.1 ms,  FPS: 302.0
Running condition:
  Thread number is: 2
  Frame count   is: 400
Perf result:
  Average    latency    is: 6.1 ms
  Frame      rate       is: 323.4 FPS
"""


def test_tensors():
    report = read_board_log(INFO, "info.txt")
    image, logits = report.tensors
    assert report.models == ("b0_x5",)
    assert (image.kind, image.valid_shape, image.tensor_type) == ("input", (1, 3, 512, 512), "HB_DNN_IMG_TYPE_NV12")
    assert image.source == "HB_DNN_INPUT_FROM_PYRAMID" and image.scales == ()
    assert (logits.valid_shape, logits.aligned_shape) == ((1, 64, 64, 3), (1, 64, 64, 4))
    assert (logits.scales, logits.axis, logits.quantisation) == ((0.00025, 0.0005, 1e-05), 3, "SCALE")


def test_speed_of_several_runs():
    report = read_board_log(PERF, "perf.txt")
    assert report.measured == (Measured(1, 200, 3.256, 302.068), Measured(2, 400, 6.1, 323.4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "neither tensors nor a result"),
        (INFO.replace("valid shape: (1,64,64,3,)\n", ""), "an output of model_info lacks 'valid shape'"),
        (PERF.replace("  Frame      rate       is: 302.068 FPS\n", ""), "lacks 'frame rate is'"),
    ],
)
def test_an_incomplete_text_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_board_log(text, "saved.txt")


@pytest.fixture()
def model(tmp_path):
    """A description as an export writes it."""
    rdk = {"board": "RDK X5", "march": "bayes-e", "optimize_level": "O3", "integer_outputs": True,
           "predicted": {"fps": 348.3, "latency": 2.871, "ddr": 4500000, "operations": 5 * 10**9}}  # fmt: skip
    content = {
        "classes": ["a", "b", "c"], "input": {}, "mean": [0, 0, 0], "std": [1, 1, 1], "bgr_to_rgb": True, "resize": {},
        "outputs": [{"name": "P3logits", "shape": [1, 64, 64, 3]}], "rdk": rdk,
    }  # fmt: skip
    path = tmp_path / "b0_x5.bin"
    path.write_bytes(b"compiled")
    (tmp_path / "b0_x5.bin.json").write_text(json.dumps(content))
    return path


def test_the_table_has_both_the_predicted_and_the_measured_speed(model, tmp_path, capsys):
    (tmp_path / "log.txt").write_text(INFO + PERF)
    assert main(["rdk", "table", str(model), "--hrt", str(tmp_path / "log.txt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "RDK X5 (bayes-e), optimize_level O3"
    assert "348.30 FPS     2.871 ms" in lines[1] and "5.00 G operations" in lines[1]
    assert " ".join(lines[2].split()) == "measured, 1 thread 302.07 FPS 3.256 ms 200 images"
    assert " ".join(lines[3].split()) == "measured, 2 threads 323.40 FPS 6.100 ms 400 images"


def test_a_board_that_reports_other_tensors(model, tmp_path, capsys):
    (tmp_path / "log.txt").write_text(INFO.replace("(1,64,64,3,)", "(1,32,32,3,)"))
    assert main(["rdk", "table", str(model), "--hrt", str(tmp_path / "log.txt")]) == 1
    assert "FAILED: P3logits: shape (1, 32, 32, 3) on the board, (1, 64, 64, 3) exported" in capsys.readouterr().out
