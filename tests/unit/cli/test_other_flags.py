"""Command lines of other programs: answered with the same command here, or understood."""

import pytest

from fcos_train.cli import train
from fcos_train.cli.demo import require_own
from fcos_train.cli.generate import command
from mmcv_overrides.errors import UserError

OPTS = ["--opts", "MODEL.WEIGHTS", "W.pth", "MODEL.FCOS.NORM", "BN", "MODEL.DEVICE", "cpu"]
COMMANDS = {
    "fcos-train demo W.pth --img DIR --show-dir 'OUT DIR' --device cpu": [
        "--config-file", "configs/FCOS-Detection/R_50_1x.yaml", "--input", "DIR", "--output", "OUT DIR", *OPTS
    ],
    "fcos-train demo WEIGHTS.pth --img a.jpg --score-thr 0.5": [
        "--config-file", "a.yaml", "--input", "a.jpg", "--confidence-threshold", "0.5"
    ],
}  # fmt: skip


@pytest.mark.parametrize("ours", COMMANDS)
def test_the_demo_of_detectron2(ours):
    with pytest.raises(UserError) as caught:
        require_own(COMMANDS[ours])
    assert f"The same here: {ours} (" in str(caught.value)


def test_our_own_command_line_passes():
    require_own(["a.pth", "--img", "b.jpg", "--config", "c.py"])


@pytest.mark.parametrize(("words", "expected"), [(["--resume-from", __file__], __file__), (["--resume-from"], "auto")])
def test_resume_from_is_resume(words, expected):
    assert command(train.run, "fcos-train train").parse(["a.py", *words]).resume == expected
