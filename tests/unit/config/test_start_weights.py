"""``--load-from coco``, ``--load-from NAME`` and ``load_from`` of a config."""

import hashlib

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from fcos_train.config import load, start_weights
from fcos_train.config.load import find_config, load_config
from fcos_train.config.start_weights import nearest
from fcos_train.start import start
from fcos_train.weights import index, places, store
from mmcv_overrides.checkpoint import save
from mmcv_overrides.errors import UserError
from tests.support.file_server import Files, serving
from tests.support.trainings import Training

TINY = "fcos/fcos_tiny_shapes"
GN_2X = "fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco"
CENTRE = "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco"


@pytest.fixture(scope="module", autouse=True)
def _started():
    start()
    init_default_scope("mmdet")


@pytest.mark.parametrize(
    ("config", "name", "why"),
    [
        ("fcos/fcos_r50_fpn_finetune", CENTRE, "box AP 38.7 on COCO; the same model as the config's"),
        ("fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco", GN_2X, "box AP 38.5 on COCO; the same model as the config's"),
        (
            "fcos/fcos_r50_caffe_fpn_4x4_1x_coco",
            GN_2X,
            "box AP 38.5 on COCO; nearest of 3, it differs in bbox_head.norm_cfg.num_groups, bbox_head.norm_cfg.type",
        ),
        ("fsaf/fsaf_r50_fpn_1x_coco", "fsaf_r50_fpn_1x_coco", "box AP 37.4 on COCO; the same model as the config's"),
    ],
)
def test_the_weights_nearest_to_a_config(config, name, why):
    chosen, said = nearest(load_config(config))
    assert (chosen.name, said) == (name, why)


def test_other_classes_schedules_and_frozen_layers_are_the_same_model():
    config = load_config("fcos/fcos_r50_fpn_finetune")
    config.merge_from_dict(
        {
            "model.bbox_head.num_classes": 3,
            "model.backbone.frozen_stages": -1,
            "model.backbone.norm_cfg": {"type": "SyncBN", "requires_grad": True},
            "model.bbox_head.loss_cls.gamma": 1.0,
        }
    )
    assert nearest(config)[0].name == CENTRE and nearest(config)[1].endswith("the same model as the config's")


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (
            TINY,
            {},
            r"no COCO weights of this model \(FCOS with backbone ResNet \(depth 18, style pytorch, base_channels 16",
        ),
        ("fcos/fcos_r50_fpn_finetune", {"model.backbone.style": "pytorch"}, r"\(depth 50, style pytorch"),
        ("fcos/fcos_r50_fpn_finetune", {"model.neck.out_channels": 128}, "Of FCOS it has fcos_hrnetv2p-w40"),
        ("fcos/fcos_r50_fpn_finetune", {"model.type": "PISARetinaNetOfMine"}, "no COCO weights of this detector"),
    ],
)
def test_no_weights_of_the_same_architecture(config, changes, message):
    changed = load_config(config)
    changed.merge_from_dict(changes)
    with pytest.raises(UserError, match=message):
        nearest(changed)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An index with one entry, the weights of the tiny config, and a folder that has its file.

    Returns:
        the state dict in the file.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(5)
    state = MODELS.build(load_config(TINY).model).state_dict()
    save({"state_dict": state, "meta": {}}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    file = f"tiny_r18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    folder = tmp_path / "index"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "tiny_r18.py").write_text(f"_base_ = {str(find_config(TINY))!r}\n")
    (folder / "tiny" / "metafile.yml").write_text(
        "Models:\n  - Name: tiny_r18\n    Config: configs/tiny/tiny_r18.py\n"
        "    Results: [{Dataset: COCO, Metrics: {box AP: 1.5}}]\n"
        f"    Weights: http://127.0.0.1:9/tiny/{file}\n"
    )
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / file).write_bytes(content)
    ours = load.config_folders()[""]
    monkeypatch.setattr(index, "index_folder", lambda: folder)
    monkeypatch.setattr(load, "config_folders", lambda: {"": ours, "mmdet::": folder})
    return state


@pytest.mark.parametrize("name", ["coco", "tiny_r18"])
def test_a_training_starts_from_them(name, tiny, shapes, tmp_path, monkeypatch, capsys):
    """From a mirror on this machine; the second run finds the file in the cache."""
    [file] = (tmp_path / "weights").iterdir()
    with serving(Files({f"/{file.name}": file.read_bytes()})) as server:
        monkeypatch.setenv(places.VARIABLE, server.url)
        done = Training(tmp_path / "run" / name, shapes, "O0", 1, load_from=name, pretrained="require")
    loaded = {key: value for key, value in done.first.items() if "num_batches" not in key}
    backbone = [key for key in loaded if key.startswith(("backbone.", "neck.")) and key in tiny]
    assert len(backbone) > 60 and all(torch.equal(loaded[key], tiny[key]) for key in backbone)
    said = capsys.readouterr().out
    assert f"weights tiny_r18: {store.cache_folder() / file.name}, from {server.url}/{file.name}" in said
    assert "licence of the weights: Apache-2.0" in said
    assert ("coco: tiny_r18 (box AP 1.5 on COCO; the same model as the config's)" in said) == (name == "coco")


def chosen(text: str, given: str | None, mode: str) -> tuple[str | None, list[str]]:
    lines: list[str] = []
    cfg = Config({**load_config(TINY).to_dict(), "load_from": text or None})
    return start_weights.start_weights(cfg, given, mode, lines.append), lines


def test_files_and_addresses_are_not_looked_up(tiny, tmp_path):
    file = str(tmp_path / "w.pth")
    assert chosen("", file, "require") == (file, [])
    assert chosen(file, None, "none") == (file, [])  # as before names: --pretrained is about what cannot be found
    assert chosen("s3://bucket/w.pth", None, "require") == ("s3://bucket/w.pth", [])
    assert chosen("lost.pth", None, "none") == ("lost.pth", [])  # the runner reports it
    assert chosen("", None, "require") == (None, [])
    with pytest.raises(UserError, match="load_from of the config tiny_r19: no weights are called .* mean tiny_r18"):
        chosen("tiny_r19", None, "require")


def test_weights_that_only_the_config_names(tiny, tmp_path, monkeypatch):
    """Without a network: an error unless ``--pretrained`` allows random weights; a flag is obeyed in any case."""
    with pytest.raises(
        UserError, match=r"load_from of the config coco: cannot download .*--pretrained none trains from"
    ):
        chosen("coco", None, "require")
    path, lines = chosen("coco", None, "auto")
    assert path is None and lines[-1].startswith("WARNING: training from random weights: load_from of the config coco")
    assert chosen("coco", None, "none") == (
        None,
        ["--pretrained none: load_from=coco of the config is not used; training from random weights"],
    )
    for mode in ("auto", "none", "require"):
        with pytest.raises(UserError, match="--load-from tiny_r18: cannot download tiny_r18-"):
            chosen("", "tiny_r18", mode)
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "weights"))
    [file] = (tmp_path / "weights").iterdir()
    assert chosen("tiny_r18", None, "require")[0] == chosen("", "coco", "none")[0] == str(file)
