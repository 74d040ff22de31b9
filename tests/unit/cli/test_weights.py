"""``fcos-train weights``, and a demo without a checkpoint."""

import hashlib

import pytest

from fcos_train.cli.demo import DEFAULT
from fcos_train.cli.main import main
from fcos_train.config.load import find_config
from fcos_train.infer import demo
from fcos_train.weights import index, named
from fcos_train.weights.places import VARIABLE

CENTRE = "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)


def said(capsys, *words):
    status = main(["weights", *words])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def test_a_list(tmp_path, capsys):
    (tmp_path / "fsaf_r50_fpn_1x_coco-94ccc51f.pth").write_bytes(b"")
    status, lines, _ = said(capsys, "fsaf_r")
    assert status == 0
    assert [line.split() for line in lines[:-1]] == [
        ["name", "box", "AP", "data", "here", "config"],
        ["fsaf_r50_fpn_1x_coco", "37.4", "COCO", "yes", "mmdet::fsaf/fsaf_r50_fpn_1x_coco"],
        ["fsaf_r101_fpn_1x_coco", "39.3", "COCO", "mmdet::fsaf/fsaf_r101_fpn_1x_coco"],
    ]
    assert lines[-1].startswith("2 files, licence Apache-2.0. Start from one: fcos-train train CONFIG --load-from NAME")


def test_what_coco_means(capsys):
    status, lines, _ = said(capsys, "coco", "--config", "fcos/fcos_r50_fpn_finetune")
    assert status == 0
    assert lines[0].startswith(f"coco for fcos/fcos_r50_fpn_finetune: {CENTRE} (box AP 38.7 on COCO; the same model")
    assert lines[1] == named(CENTRE).url and lines[2].startswith("licence of the weights: Apache-2.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["coco"], "coco depends on the config: give --config CONFIG"),
        (["--download"], "--download: give a name or --config CONFIG"),
        (["fcos", "--config", "fcos/fcos_tiny_shapes"], "a name and --config: give one of them"),
        (["fcos_r50_cafe_fpn_gn-head_1x_coco"], "did you mean fcos_r50_caffe_fpn_gn-head_1x_coco"),
        (["--config", "fcos/fcos_tiny_shapes"], "Of FCOS it has "),
    ],
)
def test_refusals(words, message, capsys):
    status, _, error = said(capsys, *words)
    assert status == 2 and error.startswith("error: ") and message in error


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """The default weights of the demo, with a content of the test's own."""
    file = f"net-{hashlib.sha256(b'content').hexdigest()[:8]}.pth"
    (tmp_path / file).write_bytes(b"content")
    real = named(DEFAULT)
    own = index.Weights(DEFAULT, f"https://host.example/{file}", real.config, "COCO", 38.7)
    monkeypatch.setattr(index, "all_weights", lambda: (own,))
    return tmp_path / file


def test_a_download(downloaded, capsys):
    status, lines, _ = said(capsys, DEFAULT, "--download")
    assert status == 0 and lines[0] == f"weights {DEFAULT}: {downloaded}"


@pytest.mark.parametrize("words", [[], ["coco"], [DEFAULT]])
def test_a_demo_without_a_checkpoint_or_with_a_name(words, downloaded, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(demo, "demo", seen.append)
    assert main(["demo", *words, "--score-thr", "0.5"]) == 0
    [options] = seen
    assert (options.checkpoint, options.score_thr) == (str(downloaded), 0.5)
    assert find_config(options.config).stem == DEFAULT
    lines = capsys.readouterr().out.splitlines()
    chosen = f"no checkpoint given, and none in work_dirs/: {DEFAULT}, trained on COCO's 80 classes"
    assert lines[: len(lines) - 2] == ([] if words else [chosen])
    assert lines[-2] == f"weights {DEFAULT}: {downloaded}" and lines[-1].startswith("licence of the weights: ")


def test_a_config_of_the_users_own_is_kept(downloaded, monkeypatch):
    seen = []
    monkeypatch.setattr(demo, "demo", seen.append)
    assert main(["demo", DEFAULT, "--config", "mine.py"]) == 0 and seen[0].config == "mine.py"


def test_the_input_is_looked_at_before_a_download(capsys):
    assert main(["demo", "--img", "lost.jpg"]) == 2
    assert capsys.readouterr().err == "error: --img lost.jpg: there is no such file or folder\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [("lost.pth", "no such file"), ("fcos_r50_cafe_fpn_gn-head_1x_coco", "did you mean fcos_r50_caffe_fpn_gn-head_1x")],
)
def test_a_checkpoint_that_is_neither_file_nor_name(name, message, capsys):
    assert main(["demo", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: checkpoint {name}: no such file") and message in error
