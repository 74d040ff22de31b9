"""What `predict` writes, with a detector whose boxes are known: the numbers are written out."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision as sv

from fcos_train.data.images import read_image
from fcos_train.infer.images import write_image
from fcos_train.infer.options import SAVED, PredictOptions
from fcos_train.infer.predict import predict
from mmcv_overrides.errors import UserError
from tests.support.spots import SpotDetector, spots

A = spots(100, 80, (10, 20, 40, 60, 128), (50, 10, 90, 30, 192))


def run(tmp_path, *sources, detector=None, lines=None, **options):
    """Predict into tmp_path/out; returns what was predicted and the lines. Any file will do as the checkpoint."""
    (tmp_path / "x.pth").touch()
    lines = [] if lines is None else lines
    asked = PredictOptions(
        str(tmp_path / "x.pth"), tuple(map(str, sources)), **{"out": str(tmp_path / "out"), **options}
    )
    return predict(asked, lambda _: detector or SpotDetector(), lines.append), lines


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def pictures(tmp_path):
    write_image(tmp_path / "in" / "a.png", A)
    write_image(tmp_path / "in" / "b.png", spots(64, 48))
    return tmp_path / "in"


def test_all_forms(pictures, tmp_path):
    done, lines = run(tmp_path, pictures, save=SAVED)
    out = tmp_path / "out"
    assert (done.images, done.objects) == (2, 2)
    assert files(out) == [
        "a_pred.jpg",
        "b_pred.jpg",
        "crops/grey/a_2.jpg",
        "crops/white/a_1.jpg",
        "data.yaml",
        "labels/a.txt",
        "labels/b.txt",
        "predictions.csv",
        "predictions.json",
        "voc/a.xml",
        "voc/b.xml",
    ]
    assert lines[0] == "device none: a test"
    assert lines[1].startswith(f"{pictures}/a.png: 2 objects: white 0.75, grey 0.50, ")
    assert lines[3:] == [
        f"{out}/predictions.json (2 images, 2 objects)",
        f"{out}/labels/ (2 files; names in data.yaml)",
        f"{out}/voc/ (2 files)",
        f"{out}/predictions.csv (2 rows)",
        f"{out}/crops/ (2 files)",
        f"{out}/*_pred.* (2 files)",
    ]
    assert json.loads((out / "predictions.json").read_text()) == {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 80},
            {"id": 2, "file_name": "b.png", "width": 64, "height": 48},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "bbox": [50, 10, 40, 20],
                "score": 0.75,
                "area": 800,
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10, 20, 30, 40],
                "score": 0.5,
                "area": 1200,
                "iscrowd": 0,
            },
        ],
        "categories": [{"id": 1, "name": "grey"}, {"id": 2, "name": "white"}],
    }
    assert (
        out / "labels/a.txt"
    ).read_text() == "1 0.70000 0.25000 0.40000 0.25000\n0 0.25000 0.50000 0.30000 0.50000\n"
    assert (out / "labels/b.txt").read_text() == ""
    assert (out / "data.yaml").read_text() == "nc: 2\nnames:\n- grey\n- white\n"
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["image"]).name, row["class_name"], float(row["x_max"]), row["confidence"]) for row in rows] == [
        ("a.png", "white", 90.0, "0.75"),
        ("a.png", "grey", 40.0, "0.5"),
    ]
    assert read_image(out / "crops/white/a_1.jpg").shape == (20, 40, 3)
    assert read_image(out / "a_pred.jpg").shape == (80 * 4, 100 * 4, 3)


def test_other_programs_read_the_labels(pictures, tmp_path):
    """supervision's readers give the boxes back: of YOLO to five digits, of VOC to the pixel."""
    run(tmp_path, pictures, save=("yolo", "voc"))
    out, images = tmp_path / "out", str(pictures)
    yolo = sv.DetectionDataset.from_yolo(images, str(out / "labels"), str(out / "data.yaml"))
    voc = sv.DetectionDataset.from_pascal_voc(images, str(out / "voc"))
    for dataset in (yolo, voc):
        found = {Path(path).name: one for path, one in dataset.annotations.items()}
        assert len(found["b.png"]) == 0
        np.testing.assert_allclose(found["a.png"].xyxy, [[50, 10, 90, 30], [10, 20, 40, 60]], atol=1e-3)
        assert [dataset.classes[label] for label in found["a.png"].class_id] == ["white", "grey"]


def test_scores_and_labels_without_a_name(tmp_path):
    """Label 2 has no name; the classes of a checkpoint cannot lead out of the folder."""
    write_image(tmp_path / "in" / "a.png", spots(100, 80, (0, 0, 20, 20, 255), (40, 40, 60, 60, 128)))
    run(tmp_path, tmp_path / "in", save=("json", "voc", "crops"), score_thr=0.6)
    data = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [one["category_id"] for one in data["annotations"]] == [3]
    assert data["categories"][2] == {"id": 3, "name": "class 2"}
    assert "<name>class 2</name>" in (tmp_path / "out/voc/a.xml").read_text()
    evil = SpotDetector(classes=("../../x", "/etc/x"))
    run(tmp_path, tmp_path / "in", save=("crops",), detector=evil, out=str(tmp_path / "evil"))
    assert files(tmp_path / "evil") == ["crops/_x/a_2.jpg", "crops/class 2/a_1.jpg"]


def test_unreadable_images_are_named_and_the_rest_goes_on(pictures, tmp_path):
    (pictures / "aa.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"^1 image was skipped: cannot read image .*aa.jpg: .* empty file"):
        run(tmp_path, pictures)
    assert files(tmp_path / "out") == ["a_pred.jpg", "b_pred.jpg", "predictions.json"]
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"]) == 2
    with pytest.raises(UserError, match=r"^cannot read image .*aa.jpg"):
        run(tmp_path, pictures / "aa.jpg", out=str(tmp_path / "none"), save=SAVED)
    assert files(tmp_path / "none") == []


def test_two_inputs_of_the_same_name(pictures, tmp_path):
    write_image(tmp_path / "other" / "a.png", A)
    write_image(tmp_path / "other" / "a.jpg", A)
    _, lines = run(tmp_path, pictures, tmp_path / "other", save=("json", "yolo", "pictures"))
    assert files(tmp_path / "out") == [
        *("a_jpg_pred.jpg", "a_png_pred.jpg", "a_pred.jpg", "b_pred.jpg", "data.yaml"),
        *(f"labels/{stem}.txt" for stem in ("a", "a_jpg", "a_png", "b")),
        "predictions.json",
    ]
    assert f"{tmp_path}/other/a.png: its files are named a_png" in lines
    images = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert [one["file_name"] for one in images] == ["a.png", "b.png", "a.jpg", f"{tmp_path}/other/a.png"]


def make_video(path, frames=4):
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (100, 80))
    for _ in range(frames):
        writer.write(A)
    writer.release()
    return path


def test_videos(tmp_path):
    clips = [make_video(tmp_path / folder / "clip.avi") for folder in ("x", "y")]
    done, lines = run(tmp_path, *clips, save=("json", "yolo", "pictures"), max_frames=3)
    assert done.images == 6 and sum(" frame 1: 2 objects" in line for line in lines) == 2
    labels = [f"labels/clip_00000{n}{end}.txt" for n in (1, 2, 3) for end in ("", "_jpg")]
    assert files(tmp_path / "out") == [
        "clip_avi_pred.avi",
        "clip_pred.avi",
        "data.yaml",
        *labels,
        "predictions.json",
    ]
    capture = cv2.VideoCapture(str(tmp_path / "out/clip_pred.avi"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    capture.release()


def test_an_interrupted_run_is_finished_and_a_failed_one_leaves_nothing(tmp_path, monkeypatch):
    clip = make_video(tmp_path / "x" / "clip.avi")

    def stopping(error):
        class Stopping(SpotDetector):
            def detect(self, images, batch_size=1):
                if len(self.batches) == 2:
                    raise error
                return super().detect(images, batch_size)

        return Stopping()

    kinds = ("json", "csv", "pictures")
    with pytest.raises(RuntimeError):
        run(tmp_path, clip, detector=stopping(RuntimeError()), save=kinds)
    assert files(tmp_path / "out") == []
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, clip, detector=stopping(KeyboardInterrupt()), save=kinds, lines=(lines := []))
    assert lines[2:4] == [
        f"{tmp_path}/out/predictions.json (2 images, 4 objects)",
        f"{tmp_path}/out/predictions.csv (4 rows)",
    ]
    assert files(tmp_path / "out") == ["clip_pred.avi", "predictions.csv", "predictions.json"]
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"]) == 2


def test_batches(pictures, tmp_path):
    for number in range(3):
        write_image(pictures / f"c{number}.png", A)
    detector = SpotDetector()
    done, _ = run(tmp_path, pictures, detector=detector, batch_size=2, save=("json",))
    assert detector.batches == [2, 2, 1] and done.images == 5


def test_the_folder(pictures, tmp_path, monkeypatch):
    """The default folder is numbered; one that cannot be written is refused before the model is loaded."""
    monkeypatch.chdir(tmp_path)
    folders = [run(tmp_path, pictures, out=None, save=("json",))[0].folder for _ in range(2)]
    assert folders == [Path("predictions"), Path("predictions-2")]
    (tmp_path / "file").touch()

    def load(_):
        raise AssertionError("loaded")

    (tmp_path / "x.pth").touch()
    with pytest.raises(UserError, match="^cannot write to the folder file/out: .*; give another one with --out"):
        predict(PredictOptions("x.pth", (str(pictures),), out="file/out"), load)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.jpg", "^none.jpg: there is no such file or folder"),
        ("*.tif", r"^\*.tif: no image matches"),
        ("s3://b/a.png", "^s3://b/a.png: s3 addresses are not read"),
        ("x.avi", "cannot open the video x.avi"),
    ],
)
def test_sources_are_refused_at_the_start(pictures, tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.avi").write_bytes(b"nothing")
    with pytest.raises(UserError, match=message):
        run(tmp_path, pictures, source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save": ("jpeg",)}, "--save jpeg: choose from json, yolo, voc, csv, crops, pictures"),
        ({"slice": (8, 8)}, "--slice 8: must be at least 16"),
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"slice_overlap": 1.0}, "--slice-overlap 1.0: must be between 0 and 0.9"),
        ({"sources": ()}, "give what to search after .*x.pth and before the flags"),
    ],
)
def test_options(tmp_path, options, message):
    (tmp_path / "x.pth").touch()
    with pytest.raises(UserError, match=message):
        PredictOptions(str(tmp_path / "x.pth"), **{"sources": ("a.jpg",), **options})
