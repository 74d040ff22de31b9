"""Every reader of untrusted files, given every format that can carry a program: none of the programs runs."""

import importlib.util
import warnings
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.infer.infer import BaseInferencer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from torch.utils.data import Dataset

from fcos_train.cli.main import main
from fcos_train.config.load import load_config
from fcos_train.deploy.parts import classes
from fcos_train.deploy.parts import coco_numbers as coco_eval
from fcos_train.deploy.parts import description as sidecar
from fcos_train.infer.detector import Detector
from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint import reading
from mmcv_overrides.errors import UserError
from tests.support.malicious import FORMATS, PROGRAMS, YAML_TAGS, Opens, with_text

CONFIG = "fcos/fcos_tiny_shapes"


@pytest.fixture(autouse=True)
def _no_trust(monkeypatch):
    monkeypatch.delenv("FCOS_TRUST_CHECKPOINT", raising=False)


class Points(Dataset):
    metainfo = {"classes": ("a",)}

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"x": torch.ones(1)}


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(1, 1)

    def forward(self, x, mode="loss"):
        return {"loss": self.body(x).mean()}


def runner(folder: Path, **settings) -> Runner:
    loader = {
        "dataset": Points(),
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "batch_size": 1,
        "num_workers": 0,
    }
    return Runner(
        model=Toy(),
        work_dir=str(folder / "run"),
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        experiment_name=str(folder).replace("/", "_"),
        **settings,
    )


def resume(path: Path) -> None:
    found = runner(path.parent)
    found.train_loop  # noqa: B018  (builds it)
    found.resume(str(path))


def train_resume_auto(path: Path) -> None:
    """What lies in the work dir, as ``--resume`` and mmengine's ``resume=True`` find it."""
    assert checkpoint.newest_readable(path.parent) is None
    runner(path.parent, resume=True)
    checkpoint.find_latest_checkpoint(str(path.parent))


def init_cfg(path: Path) -> None:
    from mmdet.models.backbones import ResNet

    ResNet(18, base_channels=2, init_cfg={"type": "Pretrained", "checkpoint": str(path)}).init_weights()


def as_download(path: Path) -> None:
    checkpoint.load_url(f"http://127.0.0.1:9/{path.name}", model_dir=str(path.parent), map_location="cpu")


READERS = {
    "load": checkpoint.load,
    "peek": reading.peek,
    "mmengine_torch_load": checkpoint.safe_torch_load,
    "mmengine_loader": lambda path: CheckpointLoader.load_checkpoint(str(path), map_location="cpu"),
    "mmengine_load_checkpoint": lambda path: mmengine.runner.load_checkpoint(Toy(), str(path), map_location="cpu"),
    "resume": resume,
    "resume_auto": train_resume_auto,
    "load_from": lambda path: runner(path.parent).load_checkpoint(str(path)),
    "init_cfg": init_cfg,
    "download": as_download,
    "demo_eval_export": Detector.from_checkpoint,
    "mmengine.load": lambda path: mmengine.load(str(path), file_format="pkl"),
    "results": coco_eval.read_results,
    "annotations": classes.read_truth,
    "sidecar": sidecar.read,
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_no_reader_executes_a_pickle(tmp_path, format):
    for name, read in READERS.items():
        folder, marker = tmp_path / name, tmp_path / name / "executed"
        folder.mkdir()
        path = folder / ("epoch_1.pth.tar" if format == "tar" and name != "resume_auto" else "epoch_1.pth")
        FORMATS[format](marker, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if (name, format) == ("mmengine.load", "legacy"):  # its first pickle is a number; the rest is not read
                read(path)
            else:
                with pytest.raises(UserError):
                    read(path)
        assert not marker.exists(), name


@pytest.mark.parametrize(
    "format", sorted(set(FORMATS) - {"tar_gz", "OBJ_zip", "INST_zip", "GLOBAL_zip", "STACK_GLOBAL_zip", "two_data_pkl"})
)
def test_the_files_of_this_table_do_execute_where_they_are_trusted(tmp_path, format):
    """Otherwise the table would prove nothing. (torch refuses the others for lack of its own records.)"""
    marker, path = tmp_path / "executed", tmp_path / "file"
    FORMATS[format](marker, path)
    try:
        if format.endswith("pickle") or format.startswith("pickle"):
            with checkpoint.trust_checkpoints():
                mmengine.load(str(path), file_format="pkl")
        else:
            checkpoint.load(path, trust=True)
    except UserError:  # the rest of the content is no checkpoint
        pass
    assert marker.exists()


@pytest.mark.parametrize("verb", ["demo", "export", "evaluate"])
@pytest.mark.parametrize("format", ["zip", "legacy", "pickle_0"])
def test_no_command_executes_a_pickle(tmp_path, capsys, shapes, verb, format):
    if verb != "demo" and not importlib.util.find_spec("onnx"):
        pytest.skip("needs onnx")
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"
    FORMATS[format](marker, path)
    words = {"demo": ["demo", path], "export": ["export", path]}.get(verb)
    words = words or ["ascend", "evaluate", "--checkpoint", path, "--data-path", shapes, "--work-dir", tmp_path / "w"]
    assert main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "evil.pth" in line and not marker.exists()


@pytest.mark.parametrize("key", ["config", "cfg"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_reader_executes_the_configuration_text_of_a_checkpoint(tmp_path, key, program):
    marker = tmp_path / "executed"
    path = with_text(tmp_path / "iter_1.pth", **{key: program.format(mark=marker)})
    assert checkpoint.newest_readable(tmp_path) == path
    if key == "config":
        with pytest.raises(UserError, match=r"iter_1\.pth: line \d of the configuration in it is more than a value"):
            resume(path)
    else:
        resume(path)
    with pytest.raises(UserError, match="more than a value"):
        Detector.from_checkpoint(path)
    with pytest.raises(UserError if key == "cfg" else ValueError):
        BaseInferencer._init_model(object.__new__(_Inferencer), {}, str(path))
    assert not marker.exists()


class _Inferencer(BaseInferencer):
    preprocess = visualize = postprocess = _init_pipeline = lambda self, *args, **kwargs: None


def test_values_in_the_configuration_text_still_count_when_resumed(tmp_path):
    with pytest.raises(RuntimeError, match="Number of GPUs"):
        resume(with_text(tmp_path / "a.pth", config="gpu_ids = [0, 1]"))
    resume(with_text(tmp_path / "b.pth", config="gpu_ids = [0]\nmodel = dict(type='FCOS')"))


CONFIG_READERS = {
    "Config.fromfile": lambda path: Config.fromfile(str(path)),
    "mmengine.load": lambda path: mmengine.load(str(path)),
    "--config": lambda path: load_config(str(path)),
    "--safe-config": lambda path: load_config(str(path), safe=True),
    "Config.fromstring": lambda path: Config.fromstring(path.read_text(), ".yaml"),
}


@pytest.mark.parametrize("reader", CONFIG_READERS)
@pytest.mark.parametrize("tag", YAML_TAGS)
def test_no_tag_of_a_yaml_file_is_executed(tmp_path, reader, tag):
    marker, path = tmp_path / "executed", tmp_path / "evil.yaml"
    path.write_text("b: 1\n" + tag.format(mark=marker) + "\n")
    with pytest.raises(UserError, match="line 2: .*nothing was executed"):
        CONFIG_READERS[reader](path)
    assert not marker.exists()
    if reader in ("mmengine.load", "Config.fromstring"):
        return
    for child, text in (
        ("a.py", "_base_ = 'evil.yaml'"),
        ("a.json", '{"_base_": "evil.yaml"}'),
        ("a.yml", "_base_: evil.yaml"),
    ):
        (tmp_path / child).write_text(text)
        with pytest.raises(UserError, match="nothing was executed"):
            CONFIG_READERS[reader](tmp_path / child)
    assert not marker.exists()


@pytest.mark.parametrize("child", ["a.py", "a.json", "a.yml"])
def test_safe_config_executes_no_program_nor_one_in_its_bases(tmp_path, child):
    marker = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    texts = {"a.py": "_base_ = ['evil.py']", "a.json": '{"_base_": "evil.py"}', "a.yml": "_base_: [evil.py]"}
    (tmp_path / child).write_text(texts[child])
    with pytest.raises(UserError, match=r"evil\.py: line 1 of the configuration is more than a value.*--safe-config"):
        load_config(str(tmp_path / child), safe=True)
    assert not marker.exists()
    load_config(str(tmp_path / child))  # by design: a configuration is a program
    assert marker.exists()


def test_no_result_file_is_unpickled(tmp_path):
    """Arrays, proposals and results under the names that readers expect."""
    marker = tmp_path / "executed"
    evil = np.array([Opens(marker)], dtype=object)
    np.save(tmp_path / "a.npy", evil, allow_pickle=True)
    FORMATS["pickle"](marker, tmp_path / "a.json")
    for path in (tmp_path / "a.npy", tmp_path / "a.json"):
        for read in (coco_eval.read_results, classes.read_truth, sidecar.read):
            with pytest.raises(UserError):
                read(path)
    for name in ("a.pkl", "a.pickle"):
        FORMATS["pickle"](marker, tmp_path / name)
        with pytest.raises(UserError, match=r"names .*open"):
            mmengine.load(str(tmp_path / name))
    assert not marker.exists()


def test_proposals_are_read_without_trust(tmp_path):
    boxes = [np.arange(10, dtype=np.float32).reshape(2, 5), {"scores": np.float64(0.5), "names": {"a", "b"}}]
    mmengine.dump(boxes, tmp_path / "proposals.pkl")
    array, other = mmengine.load(str(tmp_path / "proposals.pkl"))
    np.testing.assert_array_equal(array, boxes[0])
    assert other == {"scores": 0.5, "names": {"a", "b"}}


def test_eval_takes_no_program_from_beside_a_checkpoint_in_safe_mode(tmp_path, capsys):
    marker = tmp_path / "executed"
    with_text(tmp_path / "a.pth")
    (tmp_path / "config.py").write_text(f"open({str(marker)!r}, 'w')\n")
    words = ["eval", "-", str(tmp_path / "a.pth"), "--device", "cpu", "--work-dir", str(tmp_path / "w")]
    assert main([*words, "--safe-config"]) == 2
    shown = capsys.readouterr()
    assert f"config: {tmp_path / 'config.py'} (beside the checkpoint)" in shown.out
    assert "config.py: line 1 of the configuration is more than a value" in shown.err and not marker.exists()
    assert main([*words, "--out", "r.pkl"]) == 2
    assert "--out r.pkl" in capsys.readouterr().err and not marker.exists()


def test_sidecar_of_brackets_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="cannot be read as JSON: it is nested too deeply"):
        sidecar.read(tmp_path / "a.json")
