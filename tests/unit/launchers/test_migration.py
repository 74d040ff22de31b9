"""docs/migration.md: our line of every row runs on small data, and the Chinese page has the same lines.

The commands are read from the document and run in its order in one folder, as somebody would type them. Sizes and
configs are replaced by small ones (:data:`SMALL`, :meth:`Desk.smaller`). Launchers start a stand-in for the trainer;
the command that it was given then runs here.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from fcos_train.cli.generate import command
from fcos_train.cli.main import VERBS, main
from fcos_train.data.coco_names import COCO_IDS, COCO_NAMES
from fcos_train.infer.images import write_image
from pthtar2onx import DEFAULTS, arguments
from tests.support.commands import ROOT, ok, run
from tests.support.small_detectors import small_cascade, small_config, write_checkpoint

PAGES = ("migration.md", "migration.zh.md")
ROW = re.compile(r"^\| (.*) \| (.*) \| (.*) \| (run|parsed|-|运行|解析) \|$", re.MULTILINE)
KINDS = {"运行": "run", "解析": "parsed"}
CODE = re.compile(r"`([^`]+)`")
FSAF = "fsaf_r50_fpn_1x_coco-94ccc51f.pth"
SMALL = {"800": "64", "1088": "96", "1216": "96"}  # px
SHORT = shlex.split("--max-iters 2 --device cpu --pretrained none --workers 0 --batch-size 2 --no-validate")
# The guide's scripts have 1216 x 1216 px built in.
FIXED_SIZE = {
    "mmdetection_coco_preprocess": "--model-input-height 96 --model-input-width 96",
    "mmdetection_coco_postprocess": "--net-input-height 96 --net-input-width 96",
}


@dataclass(frozen=True)
class Line:
    """Our cell of a row and how it is checked."""

    guide: str
    ours: str
    kind: str

    @property
    def words(self) -> list[str]:
        return shlex.split(CODE.fullmatch(self.ours)[1])


def rows(page: str) -> list[Line]:
    text = (ROOT / "docs" / page).read_text()
    return [Line(guide, ours, KINDS.get(kind, kind)) for guide, ours, _, kind in ROW.findall(text)]


def test_both_pages_have_the_same_commands() -> None:
    english, chinese = (rows(page) for page in PAGES)
    assert len(english) > 50 and [line.kind for line in english] == [line.kind for line in chinese]
    for one, other in zip(english, chinese, strict=True):
        assert CODE.findall(one.ours) == CODE.findall(other.ours)
        assert set(CODE.findall(one.guide)) == set(CODE.findall(other.guide))


def test_every_line_to_be_checked_is_one_command() -> None:
    checked = [line for line in rows(PAGES[0]) if line.kind != "-"]
    assert {line.words[0] for line in checked} == {"bash", "python", "fcos-train"}
    assert {line.kind for line in checked} == {"run", "parsed"}


def pictures(folder: Path) -> None:
    """COCO's folders with four pictures of 12-digit names, COCO's categories and two boxes each."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, first in (("train2017", 1), ("val2017", 3)):
        (folder / split).mkdir()
        images, boxes = [], []
        for number in (first, first + 1):
            name = f"{number:012d}.jpg"
            write_image(folder / split / name, rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
            images.append({"id": number, "file_name": name, "width": 96, "height": 64})
            for category in (1, 18):
                box = {"bbox": [8.0 * category % 40, 6.0, 40.0, 30.0], "area": 1200.0, "iscrowd": 0}
                boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": category, **box})
        categories = [{"id": i, "name": name} for i, name in zip(COCO_IDS, COCO_NAMES, strict=True)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@dataclass
class Desk:
    """The folder in which the lines are typed."""

    sandbox: object
    folder: Path
    configs: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        pictures(self.folder / "data" / "coco")
        for name, config, checkpoint in (
            ("fsaf", small_config("fsaf"), FSAF),
            ("cascade_rcnn", small_cascade(), "cascade.pth"),
        ):
            config.test_dataloader.dataset.data_root = config.val_dataloader.dataset.data_root = "data/coco/"
            heads = config.model.bbox_head if name == "fsaf" else config.model.roi_head.bbox_head
            for head in heads if isinstance(heads, list) else [heads]:
                head.num_classes = len(COCO_NAMES)
            for evaluator in (config.val_evaluator, config.test_evaluator):
                evaluator.ann_file = "data/coco/annotations/instances_val2017.json"
            self.configs[name] = str(self.folder / f"small_{name}.py")
            Path(self.configs[name]).write_text(config.pretty_text)
            write_checkpoint(self.folder / checkpoint, config, classes=tuple(COCO_NAMES))
        self.configs["fcos"] = str(ROOT / "configs" / "fcos" / "fcos_tiny_shapes.py")

    def smaller(self, words: list[str]) -> list[str]:
        """The words with small sizes and the small config of a family."""
        found = []
        for word in words:
            family = re.fullmatch(r"configs/(fcos|fsaf|cascade_rcnn)/\S+\.py", word)
            head, equals, value = word.rpartition("=")
            found.append(self.configs[family[1]] if family else head + equals + SMALL.get(value, value))
        return found

    def verb(self, words: list[str]) -> list[str]:
        """The words of ``fcos-train`` that a line stands for.

        Launchers are started; what they give to the trainer is taken.
        """
        program, *others = words
        if program == "fcos-train":
            return self.smaller(others)
        script, *given = others
        if program == "bash":
            for old in self.sandbox.record.glob("*.json"):
                old.unlink()
            done = self.sandbox.run(script.removeprefix("./"), *given, cwd=self.folder, FAKE_DEVICES="npu 8")
            assert done.returncode == 0, done.stderr
            return self.smaller(self.sandbox.argv())
        if script == "demo.py":
            return ["demo", *self.smaller(given)]
        if script == "pthtar2onx.py":
            return ["export", *arguments(self.smaller(given))]
        name = Path(script).stem
        assert (ROOT / script).is_file(), script
        if name == "pytorch2onnx":
            defaults = {key: DEFAULTS[key] for key in ("--output-file", "--usual-opset")}
            return ["export", *arguments(self.smaller(given), defaults)]
        calls = [node for node in ast.walk(ast.parse((ROOT / script).read_text())) if isinstance(node, ast.Call)]
        fixed = next(call.args for call in calls if getattr(call.func, "id", "") == "run")
        step = [ast.literal_eval(word) for word in fixed if not isinstance(word, ast.Starred)]
        group = ["ascend"] if Path(script).parts[0] == "scripts" else []
        return [*group, *step, *self.smaller(given), *FIXED_SIZE.get(name, "").split()]


def parsed(words: list[str]) -> None:
    """All flags and values are accepted; the command for atc is written."""
    if words[:2] == ["ascend", "om"]:
        assert main([*words, "--dry-run"]) == 0
        return
    module = importlib.import_module(VERBS[words[0]][0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "0")  # a rank that torchrun has started
        command(module.run, words[0]).parse(words[1:])


@pytest.fixture
def desk(sandbox, monkeypatch) -> Desk:
    """A folder with data, checkpoints and the launchers, and no CANN."""
    shutil.copytree(ROOT / "tools", sandbox.root / "tools")
    found = Desk(sandbox, sandbox.record.parent / "desk")
    found.prepare()
    (found.folder / "work_dirs").mkdir()
    (sandbox.root / "work_dirs").symlink_to(found.folder / "work_dirs")  # where eval.sh looks
    monkeypatch.chdir(found.folder)
    return found


def test_every_line_of_ours_runs_on_small_data(desk, capfd) -> None:
    failed = []
    for line in rows(PAGES[0]):
        if line.kind == "-":
            continue
        words = desk.verb(line.words)
        if line.kind == "parsed":
            if "--resume-from" in words:
                Path(words[words.index("--resume-from") + 1]).parent.mkdir(parents=True, exist_ok=True)
                Path(words[words.index("--resume-from") + 1]).touch()
            parsed(words)
            continue
        if words[0] == "train":
            out = ok(run(*words, *SHORT, cwd=desk.folder)).stdout
            work = desk.folder / "work_dirs" / "fcos_tiny_shapes"
            shutil.copy(work / "latest.pth", desk.folder / "xxx.pth")
            desk.configs["fcos"] = str(work / "config.py")
        else:
            status = main(words)
            out, err = capfd.readouterr()
            if status:
                failed.append((line.ours, status, out[-500:] + err[-500:]))
                continue
        if re.search(r"ground_truth|--eval|eval\.sh|annotations_path", line.ours) and out.count("@[ IoU=") != 12:
            failed.append((line.ours, "not twelve lines", out[-2000:]))
    assert failed == []
    made = {str(path.relative_to(desk.folder)) for path in desk.folder.rglob("*") if path.is_file()}
    assert {
        "tmp.onnx", "fsaf.onnx", "fsaf_ascend.onnx", "fsaf_bs1.atc.sh", "fsaf_bs8.atc.sh", "fsaf_bs1.aoe.sh",
        "cascadeR101dcn.onnx", "cascade.atc.sh", "fcos_raw.onnx", "val2017_bin/000000000003.bin", "fsaf.info",
        "result/dumpOutput_device0/000000000003_1.bin", "ret_npuinfer/000000000003.txt", "coco_detection_result.json",
        "result/infer_result/000000000003_0.bin", "detection-results/000000000004.txt",
    } <= made  # fmt: skip
