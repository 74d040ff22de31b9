"""Malicious results, annotations and names in the offline inference pipeline: one clear line each."""

import json
import os

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.ascend.evaluate import _prepare
from fcos_train.deploy.ascend.rules import RULES
from fcos_train.infer.detector import _classes
from fcos_train.infer.images import write_image
from fcos_train.infer.sources import Frame, Pictures

pytestmark = pytest.mark.hostile

TRUTH = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat"}],
}
RESULT = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.5}
NAN, INF = float("nan"), float("inf")


def coco_eval(tmp_path, truth, results) -> int:
    for name, content in (("truth.json", truth), ("results.json", results)):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    flags = {"--ground-truth": "truth.json", "--detection-result": "results.json", "--output": "numbers.txt"}
    return main(["ascend", "coco-eval", *(str(w) for flag, name in flags.items() for w in (flag, tmp_path / name))])


def changed(entry, **values):
    return [{**entry, **values}]


def test_sound_results_count(tmp_path, capsys):
    assert coco_eval(tmp_path, TRUTH, [RESULT]) == 0
    assert "'bbox_mAP': 1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (
            changed(RESULT, score=NAN),
            'entry 0 needs a score and a bbox of four numbers, all finite; it has {"score": NaN, "bbox": [10',
        ),
        (changed(RESULT, score=INF), '"score": Infinity'),
        (changed(RESULT, score=10**400), "all finite"),
        (changed(RESULT, score="0.5"), '"score": "0.5"'),
        (changed(RESULT, score=[0.5]), "all finite"),
        ([RESULT, *changed(RESULT, bbox=[1, 2, NAN, 4])], "entry 1 needs a score and a bbox"),
        (changed(RESULT, bbox=[1, 2, 3]), "of four numbers"),
        (changed(RESULT, bbox={"\x1b": "\n"}), r'"bbox": {"\u001b": "\n"}'),
        (changed(RESULT, bbox=list(range(100_000))), "of four numbers"),
        (changed(RESULT, image_id=[1]), "entry 0 has an image_id or a category_id that is neither a number nor text"),
        (changed(RESULT, category_id=NAN), "neither a number nor text"),
        (changed(RESULT, category_id={}), "neither a number nor text"),
        (changed(RESULT, image_id="\x1b[31m\n"), r"has image_id \x1b[31m\n, which"),
        ("[" * 200_000, "the results {path} cannot be read as JSON: it is nested too deeply"),
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        ('[{"score": 0.5', "the results {path} is not a JSON file"),
        ({"a": 1}, "is not a COCO result file"),
        ([[]], "is not a COCO result file"),
    ],
)
def test_results_that_cannot_count(tmp_path, capsys, results, message):
    assert coco_eval(tmp_path, TRUTH, results) == 2
    said = capsys.readouterr().err
    assert message.replace("{path}", str(tmp_path / "results.json")) in said
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 1000 and said[:-1].isprintable()
    assert not (tmp_path / "numbers.txt").exists()


ANN = TRUTH["annotations"][0]


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (
            {**TRUTH, "annotations": changed(ANN, bbox=[1, 2, NAN, 4])},
            "annotations[0] is not as in a COCO annotation file",
        ),
        ({**TRUTH, "annotations": changed(ANN, bbox=None)}, "bbox must be four finite numbers"),
        ({**TRUTH, "annotations": changed(ANN, bbox=["\x1b"] * 4)}, "bbox must be four finite numbers"),
        ({**TRUTH, "annotations": changed(ANN, area="\n")}, "area must be a finite number"),
        ({**TRUTH, "annotations": [ANN, *changed(ANN, image_id=[1])]}, "annotations[1] is not as"),
        ({**TRUTH, "annotations": changed(ANN, category_id=[1])}, "an id must be a number or text"),
        ({**TRUTH, "annotations": changed(ANN, iscrowd="\x1b")}, "iscrowd must be 0 or 1"),
        ({**TRUTH, "annotations": [7]}, "annotations[0] is not as"),
        ({**TRUTH, "images": [{"id": NAN, "file_name": "1.jpg"}]}, "images[0] is not as"),
        ({**TRUTH, "images": [{"id": "\x1b", "file_name": "1.jpg"}]}, "has image_id 1, which"),
        ({**TRUTH, "images": 7}, "it lacks images"),
        ({**TRUTH, "categories": [{"id": 1, "name": "a\nb\x1b"}]}, r"the class name 'a\nb\x1b' has control characters"),
        ({**TRUTH, "categories": [{"id": {}, "name": "cat"}]}, "categories[0] is not as"),
        ([], "it lacks images, annotations, categories"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_annotations_that_cannot_count(tmp_path, capsys, truth, message):
    assert coco_eval(tmp_path, truth, [RESULT]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'truth.json'}" in said and message in said
    assert said.count("\n") == 1 and said[:-1].isprintable()


@pytest.mark.parametrize(
    "line", ["cat nan 1 2 3 4", "cat 0.5 1 2 inf 4", "cat 0.5 1 2", "\x1b[31m", "cat 1e999 1 2 3 4"]
)
def test_text_files_of_detections(tmp_path, capsys, line):
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "1.txt").write_text(line + "\n")
    words = ["--npu-txt-path", str(tmp_path / "txt"), "--json-output-file", str(tmp_path / "out")]
    assert main(["ascend", "txt-to-json", *words]) == 2
    said = capsys.readouterr().err
    assert "1.txt, line 1: expected '<class name> <score> <x1> <y1> <x2> <y2>' with finite numbers" in said
    assert said[:-1].isprintable() and not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ("[]", "it lacks classes, input"),
        ({"classes": ["a\x1b"]}, r"the class name 'a\x1b' has control characters"),
        ({"classes": "cat"}, "its classes are not a list"),
        ({"input": {"example_shape": "\n"}}, "does not describe an exported model: ValueError"),
        ({"input": []}, "does not describe an exported model: TypeError"),
        ({"mean": None}, "does not describe an exported model: TypeError"),
        ({"resize": 7}, "does not describe an exported model: AttributeError"),
    ],
)
def test_descriptions(tmp_path, capsys, content, message):
    sound = {
        "classes": ["cat"],
        "input": {"example_shape": [32, 32]},
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "bgr_to_rgb": False,
        "resize": {},
    }
    text = content if isinstance(content, str) else json.dumps({**sound, **content})
    (tmp_path / "model.json").write_text(text)
    assert (
        main(["ascend", "preprocess", "--sidecar", str(tmp_path / "model.json"), "--image-src-path", str(tmp_path)])
        == 2
    )
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and said[:-1].isprintable()


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    return path


def test_outputs_named_after_inputs_stay_in_their_folder(tmp_path):
    """Relative paths with `..` and absolute paths of an annotation file, in `ascend evaluate` and in the demo."""
    data, work = tmp_path / "data" / "train2017", tmp_path / "a" / "b" / "work"
    data.mkdir(parents=True)
    for name in ("x.jpg", "deep/y.jpg", "z..jpg"):
        picture(tmp_path / "data" / name)
    images = [data / "../x.jpg", data / "../deep/../deep/y.jpg", tmp_path / "data" / "z..jpg"]
    before = {path for path in tmp_path.rglob("*") if work not in path.parents}
    _prepare(images, RULES["fsaf"].at(8, 8), work)
    assert sorted(p.relative_to(work).as_posix() for p in work.rglob("*.*")) == [
        "bin.info",
        "bin/x.bin",
        "bin/y.bin",
        "bin/z.bin",
        "images.info",
    ]
    sink = Pictures(images).sink(work / "drawn")
    for path in images:
        sink.write(Frame(str(path), np.zeros((8, 8, 3), np.uint8)), np.zeros((8, 8, 3), np.uint8))
    assert sorted(p.name for p in (work / "drawn").iterdir()) == ["x_pred.jpg", "y_pred.jpg", "z._pred.jpg"]
    assert {path for path in tmp_path.rglob("*") if work not in path.parents} - before <= {work, *work.parents}


def test_drawing_does_not_follow_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "a_pred.jpg").symlink_to(victim)
    write_image(tmp_path / "a_pred.jpg", np.zeros((8, 8, 3), np.uint8))
    assert victim.read_text() == "kept" and not (tmp_path / "a_pred.jpg").is_symlink()


def test_a_file_name_cannot_write_rows_of_its_own(tmp_path, capsys):
    picture(tmp_path / "images" / "x 1 1\n0 \x1b 9 9.jpg".replace("/", ""))
    assert main(["ascend", "info", "jpg", str(tmp_path / "images"), str(tmp_path / "out.info")]) == 2
    said = capsys.readouterr().err
    assert r"1 names have control characters, e.g. " in said and r"x 1 1\n0 \x1b 9 9.jpg: rename the files" in said
    assert not os.path.exists(tmp_path / "out.info")


def test_class_names_of_a_checkpoint_are_shown_escaped():
    state = {"meta": {"dataset_meta": {"classes": ("cat", "a\nb\x1b[31m", "tac\u202e")}}}
    assert _classes(state, {}, None) == ["cat", r"a\nb\x1b[31m", r"tac\u202e"]
