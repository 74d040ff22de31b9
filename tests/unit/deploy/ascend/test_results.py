"""From dumps to text files, COCO results and the twelve numbers; expected bytes are computed here."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.ascend.txt_to_json import collect
from fcos_train.deploy.parts.classes import COCO_IDS, COCO_NAMES, coco_truth
from mmcv_overrides.errors import UserError

# Input pixels of an image at half size: x1 y1 x2 y2 score, and the label.
OBJECTS = [((16.0, 32.0, 64.0, 96.0, 0.75), 9), ((8.0, 8.0, 24.0, 40.0, 0.5), 0), ((0.0, 0.0, 2.0, 2.0, 0.03125), 79)]


def dump(folder: Path, stem: str, base=1, swapped=False, objects=OBJECTS, kind="<q") -> None:
    """The two files of one image: 100 rows, padded with zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row, _ in objects] + [(0.0,) * 5] * (100 - len(objects))
    labels = [label for _, label in objects] + [0] * (100 - len(objects))
    data = [b"".join(struct.pack("<5f", *row) for row in rows), b"".join(struct.pack(kind, label) for label in labels)]
    for number, content in enumerate(data[::-1] if swapped else data, start=base):
        (folder / f"{stem}_{number}.bin").write_bytes(content)


def info(path: Path, *rows) -> str:
    path.write_text("".join(f"{i} images/{name}.jpg {w} {h}\n" for i, (name, w, h) in enumerate(rows)))
    return str(path)


def run(tmp_path, model, *words) -> int:
    paths = ["--bin_data_path", tmp_path / "dump", "--det_results_path", tmp_path / "txt"]
    return main(["ascend", "postprocess", "--model", model, *map(str, paths), *map(str, words)])


@pytest.mark.parametrize("base,swapped,kind", [(1, False, "<q"), (0, False, "<q"), (1, True, "<q"), (0, True, "<i")])
def test_fsaf_divides_by_the_scale_and_finds_files_itself(tmp_path, base, swapped, kind):
    # s = min(1216/2432, 800/1000) = 0.5; no threshold, rows of score 0 dropped
    dump(tmp_path / "dump", "000000000139", base, swapped, kind=kind)
    origin = info(tmp_path / "origin_pictures.info", ("000000000139", 2432, 1000))
    words = ["--test_annotation", origin, "--net_out_num", 3, "--net_input_width", 1216, "--net_input_height", 800]
    assert run(tmp_path, "fsaf", *words) == 0
    assert (tmp_path / "txt" / "000000000139.txt").read_bytes() == (
        b"traffic light 0.75 32.0 64.0 128.0 192.0\n"
        b"person 0.5 16.0 16.0 48.0 80.0\n"
        b"toothbrush 0.03125 0.0 0.0 4.0 4.0\n"
    )


def test_fcos_subtracts_the_float_padding_first(tmp_path):
    # s = min(1333/500, 800/400) = 2; pad left = (1333 - 1000)/2 = 166.5, top = 0
    dump(tmp_path / "dump", "7", objects=[((200.0, 50.0, 300.0, 150.0, 0.25), 2)])
    assert run(tmp_path, "fcos", "--test-annotation", info(tmp_path / "o.info", ("7", 500, 400))) == 0
    assert (tmp_path / "txt" / "7.txt").read_text() == "car 0.25 16.75 25.0 66.75 75.0\n"


def test_cascade_threshold_labels_and_padding(tmp_path):
    # s = min(1216/608, 1216/304) = 2; pad top = (1216 - 608)/2 = 304; boxes are not clipped
    objects = [
        ((100.0, 300.0, 200.0, 504.0, float(np.float32(0.05))), 5),
        ((0.0, 304.0, 10.0, 314.0, 0.049), 5),
        ((0.0, 304.0, 10.0, 314.0, 0.9), -1),
        ((0.0, 304.0, 10.0, 314.0, 0.9), 80),
        ((0.0, 304.0, 10.0, 314.0, 0.9), 81),
    ]
    dump(tmp_path / "dump", "000000000632", 0, objects=objects)
    assert run(tmp_path, "cascade", "--test_annotation", info(tmp_path / "c.info", ("000000000632", 608, 304))) == 0
    score = repr(struct.unpack("<f", struct.pack("<f", 0.05))[0])
    assert (tmp_path / "txt" / "000000000632.txt").read_text() == f"bus {score} 50.0 -2.0 100.0 100.0\n"
    assert run(tmp_path, "cascade", "--test_annotation", tmp_path / "c.info", "--prob_thres", 0.5) == 0
    assert (tmp_path / "txt" / "000000000632.txt").read_text() == ""


def test_boxes_are_drawn_green_on_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    cv2.imwrite("images/7.jpg", np.zeros((300, 400, 3), np.uint8))
    dump(tmp_path / "dump", "7", objects=[((304.0, 304.0, 912.0, 912.0, 0.9), 0)])
    origin = info(tmp_path / "o.info", ("7", 400, 300))  # s = 3.04, pad top 152: box 100 50 300 250
    assert run(tmp_path, "cascade", "--test-annotation", origin, "--ifShowDetObj") == 0
    drawn = cv2.imread(str(tmp_path / "txt" / "7.jpg")).astype(int)
    assert drawn[150, 100, 1] > 150 > drawn[150, 100, 0] and drawn[150, 300, 1] > 150 and drawn[150, 200].max() < 40
    words = ["--test-annotation", info(tmp_path / "x.info", ("7", 400, 300)), "--ifShowDetObj"]
    Path("images/7.jpg").unlink()
    assert run(tmp_path, "cascade", *words) == 2


@pytest.mark.parametrize(
    "spoil,part",
    [
        (lambda d: (d / "7_1.bin").write_bytes((d / "7_1.bin").read_bytes()[:-8]), "7_1.bin has 1992 bytes"),
        (lambda d: (d / "7_2.bin").write_bytes(b""), "7_2.bin 0: expected 20 bytes per box"),
        (lambda d: (d / "7_2.bin").unlink(), "1 results are missing in"),
        (lambda d: (d / "8_1.bin").unlink(), "8_1.bin"),
        (lambda d: (d / "8_1.bin").write_bytes((d / "8_1.bin").read_bytes() + bytes(4)), "8_1.bin has 2004 bytes"),
        (lambda d: [p.unlink() for p in d.iterdir()], "has no results for the 2 images"),
    ],
)
def test_missing_or_truncated_dumps_are_named(tmp_path, capsys, spoil, part):
    (tmp_path / "txt").mkdir()
    for stem in ("7", "8"):
        dump(tmp_path / "dump", stem)
        (tmp_path / "txt" / f"{stem}.txt").write_text("finished earlier")
    spoil(tmp_path / "dump")
    assert run(tmp_path, "fsaf", "--test-annotation", info(tmp_path / "o.info", ("7", 100, 100), ("8", 90, 90))) == 2
    assert part in capsys.readouterr().err
    assert {p.name: p.read_text() for p in (tmp_path / "txt").iterdir()} == dict.fromkeys(
        ("7.txt", "8.txt"), "finished earlier"
    )


def test_image_absent_from_the_info_file_is_named(tmp_path, capsys):
    for stem in ("7", "8"):
        dump(tmp_path / "dump", stem)
    assert run(tmp_path, "fsaf", "--test-annotation", info(tmp_path / "o.info", ("7", 100, 100))) == 2
    assert "results of 1 images that the info file does not list: 8" in capsys.readouterr().err
    assert run(tmp_path, "fsaf", "--test-annotation", tmp_path / "absent.info") == 2
    assert "cannot read the info file" in capsys.readouterr().err and not (tmp_path / "txt").exists()


def test_ids_of_the_eighty_classes():
    assert len(COCO_NAMES) == len(COCO_IDS) == 80
    assert dict(zip(COCO_NAMES, COCO_IDS))["stop sign"] == 13 and COCO_IDS[-1] == 90
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91} & set(COCO_IDS)
    assert COCO_NAMES[COCO_IDS.index(27)] == "backpack" and COCO_NAMES[COCO_IDS.index(67)] == "dining table"


def test_txt_to_json_bytes(tmp_path):
    (tmp_path / "000000000785.txt").write_text("person 0.05 1.5 2.5 4.0 4.5\nhair drier 0.04 0 0 1 1\n")
    (tmp_path / "000000000139.txt").write_text("traffic light 0.75 32.0 64.0 128.0 192.0\n")
    words = ["--npu_txt_path", tmp_path, "--json_output_file", tmp_path / "coco_detection_result"]
    assert main(["ascend", "txt-to-json", *map(str, words)]) == 0
    assert (tmp_path / "coco_detection_result.json").read_text() == (
        '[{"image_id": 139, "bbox": [32.0, 64.0, 96.0, 128.0], "score": 0.75, "category_id": 10}, '
        '{"image_id": 785, "bbox": [1.5, 2.5, 2.5, 2.0], "score": 0.05, "category_id": 1}]'
    )


@pytest.mark.parametrize(
    "name,line,part",
    [
        ("1.txt", "person 0.9 1 2 3", "1.txt, line 1: expected '<class name> <score>"),
        ("1.txt", "0.9 1 2 3 4", "1.txt, line 1"),
        ("1.txt", "person x 1 2 3 4", "1.txt, line 1"),
        ("1.txt", "unicorn 0.9 1 2 3 4", "no category named 'unicorn'"),
        ("first.txt", "person 0.9 1 2 3 4", "--ground-truth"),
    ],
)
def test_unsound_text_is_named_and_the_old_json_stays(tmp_path, capsys, name, line, part):
    (tmp_path / name).write_text(line + "\n")
    (tmp_path / "old.json").write_text("old")
    words = ["--npu-txt-path", tmp_path, "--json-output-file", tmp_path / "old"]
    assert main(["ascend", "txt-to-json", *map(str, words)]) == 2
    assert part in capsys.readouterr().err and (tmp_path / "old.json").read_text() == "old"


def test_text_files_of_other_images_than_the_annotations(tmp_path, capsys):
    annotations(tmp_path / "instances.json")
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "img_7.txt").write_text("red cell 0.9 1 2 3 4\n")
    (tmp_path / "old.json").write_text("old")
    words = ["--npu-txt-path", tmp_path / "txt", "--json-output-file", tmp_path / "old", "--ground-truth"]
    assert main(["ascend", "txt-to-json", *map(str, words), str(tmp_path / "instances.json")]) == 2
    message = capsys.readouterr().err
    assert "instances.json has no image named img_7.*; it has img_0, img_1, img_2 and 2 more" in message
    assert (tmp_path / "old.json").read_text() == "old"
    (tmp_path / "txt" / "img_7.txt").rename(tmp_path / "txt" / "img_3.txt")
    assert main(["ascend", "txt-to-json", *map(str, words), str(tmp_path / "instances.json")]) == 0
    assert json.loads((tmp_path / "old.json").read_text()) == [
        {"image_id": 6, "bbox": [1.0, 2.0, 2.0, 2.0], "score": 0.9, "category_id": 2}
    ]


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"images": [{"id": 1}], "categories": []}'])
def test_what_is_no_annotation_file_is_refused(tmp_path, capsys, content):
    (tmp_path / "1.txt").write_text("person 0.9 1 2 3 4\n")
    (tmp_path / "a.json").write_text(content)
    (tmp_path / "r.json").write_text("[]")
    truth, out = str(tmp_path / "a.json"), str(tmp_path / "out")
    assert (
        main(
            [
                "ascend",
                "txt-to-json",
                "--npu-txt-path",
                str(tmp_path),
                "--json-output-file",
                out,
                "--ground-truth",
                truth,
            ]
        )
        == 2
    )
    assert "a.json" in capsys.readouterr().err and not list(tmp_path.glob("out*"))
    words = ["--ground-truth", truth, "--detection-result", str(tmp_path / "r.json"), "--output", out]
    assert main(["ascend", "coco-eval", *words]) == 2
    assert "a.json" in capsys.readouterr().err and not list(tmp_path.glob("out*"))


def test_text_folder_must_hold_something(tmp_path):
    with pytest.raises(UserError, match="holds no text files"):
        collect(tmp_path, coco_truth())


def annotations(path: Path, seed=0) -> tuple[dict, list[dict]]:
    """Random boxes of three classes in five images, and detections near most of them."""
    random = np.random.default_rng(seed)
    images = [{"id": i + 3, "file_name": f"val/img_{i}.jpg", "width": 400, "height": 300} for i in range(5)]
    categories = [{"id": i, "name": name} for i, name in ((2, "red cell"), (5, "platelet"), (9, "white"))]
    truth, found = [], []
    for number in range(90):
        x, y, w, h = random.uniform(0, 200), random.uniform(0, 200), *random.choice([20, 60, 150], 2)
        image, category = images[number % 5]["id"], categories[number % 3]["id"]
        box = [float(x), float(y), float(w), float(h)]
        entry = {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "iscrowd": int(number % 17 == 0),
        }
        truth.append({**entry, "area": float(w * h)})
        near = [float(v + d) for v, d in zip(box, random.normal(0, 4, 4))]
        found.append(
            {"image_id": image, "category_id": category, "bbox": near, "score": float(random.uniform(0.06, 1))}
        )
    data = {"images": images, "annotations": truth, "categories": categories}
    path.write_text(json.dumps(data))
    return data, found


def test_coco_eval_prints_what_pycocotools_prints(tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    data, found = annotations(tmp_path / "instances.json")
    for entry in data["annotations"]:
        entry["id"] += 1
    (tmp_path / "instances.json").write_text(json.dumps(data))
    (tmp_path / "result.json").write_text(json.dumps(found))
    truth = coco.COCO(str(tmp_path / "instances.json"))
    counter = COCOeval(truth, truth.loadRes(str(tmp_path / "result.json")), "bbox")
    counter.params.maxDets = [100, 300, 1000]
    counter.evaluate()
    counter.accumulate()
    capsys.readouterr()
    counter.summarize()
    want = capsys.readouterr().out.splitlines()
    paths = ["--ground_truth", tmp_path / "instances.json", "--detection_result", tmp_path / "result.json"]
    assert main(["ascend", "coco-eval", *map(str, paths), "--output", str(tmp_path / "r.txt")]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert lines == want and len(want) == 12
    six = [f"{value:.3f}" for value in counter.stats[:6]]
    keys = ["bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l"]
    dictionary = {key: float(value) for key, value in zip(keys, six)} | {"bbox_mAP_copypaste": " ".join(six)}
    assert summary == str(dictionary) and 0.2 < counter.stats[0] < 0.95
    text = "".join(f"{key}: {value}\n" for key, value in dictionary.items())
    assert (tmp_path / "r.txt").read_text() == text


@pytest.mark.parametrize(
    "change,part",
    [
        ({"image_id": 99}, "has image_id 99"),
        ({"category_id": 7}, "has category_id 7"),
        ({"score": None}, "not a COCO result"),
    ],
)
def test_results_of_other_data_are_refused(tmp_path, capsys, change, part):
    _, found = annotations(tmp_path / "instances.json")
    found[3].update(change)
    if change.get("score", 0) is None:
        del found[3]["score"]
    (tmp_path / "result.json").write_text(json.dumps(found))
    (tmp_path / "old.txt").write_text("old")
    paths = ["--ground-truth", tmp_path / "instances.json", "--detection-result", tmp_path / "result.json"]
    assert main(["ascend", "coco-eval", *map(str, paths), "--output", str(tmp_path / "old.txt")]) == 2
    assert part in capsys.readouterr().err and (tmp_path / "old.txt").read_text() == "old"


def test_no_result_at_all_scores_zero(tmp_path):
    annotations(tmp_path / "instances.json")
    (tmp_path / "result.json").write_text("[]")
    paths = ["--ground-truth", tmp_path / "instances.json", "--detection-result", tmp_path / "result.json"]
    assert main(["ascend", "coco-eval", *map(str, paths), "--output", str(tmp_path / "r.txt")]) == 0
    assert (tmp_path / "r.txt").read_text().startswith("bbox_mAP: 0.0\nbbox_mAP_50: 0.0\n")


def test_postprocess_scores_names_that_are_no_ids(tmp_path, capsys):
    data, _ = annotations(tmp_path / "instances_val2017.json")
    names = [category["name"] for category in data["categories"]]
    ids = [category["id"] for category in data["categories"]]
    rows = []
    for image in data["images"]:
        boxes = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        # s = min(1216/400, 800/300) = 8/3
        scaled = [np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]]) * 8 / 3 for b in (a["bbox"] for a in boxes)]
        objects = [((*box, 0.9), ids.index(a["category_id"])) for box, a in zip(scaled, boxes)]
        stem = Path(image["file_name"]).stem
        dump(tmp_path / "dump", stem, objects=objects)
        rows.append((stem, 400, 300))
    words = ["--test-annotation", info(tmp_path / "o.info", *rows), "--annotations-path", tmp_path, "--classes", *names]
    assert run(tmp_path, "fsaf", *words) == 0
    assert "'bbox_mAP': 1.0," in capsys.readouterr().out
    assert run(tmp_path, "fsaf", *words[:-3], "red cell", "platelet", "black") == 2
    assert "no category named 'black'" in capsys.readouterr().err
