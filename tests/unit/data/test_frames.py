"""The frame that boxes count in: EXIF orientation, images of another size, and which of them are left out."""

import json

import cv2
import numpy as np
import pytest

from fcos_train.data import Split, check
from fcos_train.data.images import read_image
from fcos_train.data.turn import Move
from mmcv_overrides.errors import UserError

Image = pytest.importorskip("PIL.Image")
WIDE, HIGH = (96, 72), (72, 96)
# Boxes on a picture of 96 x 72, seen as it should be; the second and the fourth lie outside 72 x 96.
BOXES = [(5, 6, 20, 30), (70, 40, 25, 30), (30, 10, 18, 20), (60, 20, 33, 22)]


def turned_back(box, orientation):
    """A box of the 96 x 72 picture in the file that is stored for this orientation, written out by hand."""
    x, y, w, h = box
    width, height = WIDE
    return {
        1: (x, y, w, h),
        2: (width - x - w, y, w, h),
        3: (width - x - w, height - y - h, w, h),
        4: (x, height - y - h, w, h),
        5: (y, x, h, w),
        6: (y, width - x - w, h, w),
        7: (height - y - h, width - x - w, h, w),
        8: (height - y - h, x, h, w),
    }[orientation]


@pytest.fixture
def write(tmp_path):
    """write(name, size, boxes per image, stored size, EXIF orientation) -> Split with real files."""

    def make(name, stated, boxes, stored=WIDE, orientation=1, suffix=".jpg", start=0):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        images, annotations = [], []
        for number, some in enumerate(boxes, start=1 + start):
            exif = Image.Exif()
            exif[274] = orientation
            picture = np.full((stored[1], stored[0], 3), 30 + number, np.uint8)
            Image.fromarray(picture).save(folder / f"{number}{suffix}", exif=exif)
            size = {} if stated is None else {"width": stated[0], "height": stated[1]}
            images.append({"id": number, "file_name": f"{number}{suffix}", **size})
            for box in some:
                where = {"id": len(annotations) + 1, "image_id": number, "bbox": list(box), "category_id": 1}
                annotations.append({**where, "area": box[2] * box[3], "iscrowd": 0})
        path = tmp_path / f"{name}.json"
        data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
        path.write_text(json.dumps(data))
        return Split(name, path, folder)

    return make


def checked(train, val, cache):
    """(report of train, its images' sizes, its boxes) after the check."""
    report = check(train, val, cache_dir=cache).splits["train"]
    data = json.loads(report.ann_file.read_text())
    sizes = {(image.get("width"), image.get("height")) for image in data["images"]}
    return report, sizes, [tuple(a["bbox"]) for a in data["annotations"]]


@pytest.fixture
def val(write):
    return write("val", WIDE, [[BOXES[0]]])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_stored_file_are_turned(write, val, tmp_path, orientation, suffix):
    boxes = [[turned_back(box, orientation)] for box in BOXES]
    train = write("train", HIGH, boxes, HIGH, orientation, suffix)
    assert read_image(train.img_dir / f"1{suffix}").shape == (72, 96, 3)  # OpenCV turns it
    report, sizes, found = checked(train, val, tmp_path / "cache")
    assert sizes == {WIDE} and found == BOXES and report.counts["turned_boxes"] == 4
    assert f"1{suffix}: 96x72, EXIF orientation {orientation}, annotated 72x96" in "".join(report.faults())


@pytest.mark.parametrize("stated", [HIGH, WIDE, None])
def test_boxes_of_the_turned_image_stay(write, val, tmp_path, stated):
    report, sizes, found = checked(write("train", stated, [[b] for b in BOXES], HIGH, 6), val, tmp_path / "cache")
    assert found == BOXES and sizes == {WIDE}
    assert report.counts["corrected_sizes"] == (4 if stated == HIGH else 0)
    assert report.counts["sizes_read"] == (4 if stated is None else 0)
    assert (report.faults() == []) == (stated == WIDE)


def test_both_splits_decide_together(write, tmp_path):
    """A split whose boxes fit in both frames follows the other one; alone, the size decides: that of the file."""
    both = (10, 10, 30, 40)
    train = write("train", HIGH, [[box] for box in BOXES], HIGH, 6)
    undecided = write("val", HIGH, [[both]], HIGH, 6)
    assert check(train, undecided).splits["val"].counts["corrected_sizes"] == 1
    assert check(undecided, write("other", WIDE, [[BOXES[0]]])).counts["val"]["turned_boxes"] == 1


def test_a_box_drawn_far_outside_does_not_turn_a_sound_set(write, val, tmp_path):
    sound = [[box] for box in BOXES * 3]
    train = write("train", WIDE, [*sound, [(10, 10, 20, 84)]], HIGH, 6)  # 94 px down in an image of 72
    report, _, found = checked(train, val, tmp_path / "cache")
    assert found == [*BOXES * 3, (10, 10, 20, 62)] and report.counts["clipped"] == 1
    assert report.counts["turned_boxes"] == 0


@pytest.mark.parametrize(("of_others", "expected"), [("stored", "turned"), ("turned", "as they are"), (None, None)])
def test_turned_by_half_the_other_images_decide(write, val, tmp_path, of_others, expected):
    """Turned by 180 degrees both frames have one size, and all boxes fit in both."""
    half = write("train", WIDE, [[BOXES[0]]], WIDE, 3)
    half_image = json.loads(half.ann_file.read_text())
    if of_others:
        boxes = [[turned_back(b, 6) if of_others == "stored" else b] for b in BOXES]
        train = write("train", HIGH if of_others == "stored" else WIDE, boxes, HIGH, 6, start=1)
        data = json.loads(train.ann_file.read_text())
        data["images"] += half_image["images"]
        data["annotations"].append({**half_image["annotations"][0], "id": 99})
        train.ann_file.write_text(json.dumps(data))
    report, _, found = checked(half, val, tmp_path / "cache")
    assert found[-1] == (turned_back(BOXES[0], 3) if expected == "turned" else BOXES[0])
    assert report.counts["unsure_orientation"] == (expected is None)


def doubled(box):
    return tuple(2 * side for side in box)


def test_boxes_of_images_that_were_halved_are_scaled(write, val, tmp_path):
    train = write("train", (192, 144), [[doubled(box)] for box in BOXES])
    report, sizes, found = checked(train, val, tmp_path / "cache")
    assert sizes == {WIDE} and found == BOXES and report.counts["scaled_boxes"] == 4
    data = json.loads(report.ann_file.read_text())
    assert [a["area"] for a in data["annotations"]] == [w * h for _, _, w, h in BOXES]


def test_a_size_that_was_not_updated_is_corrected(write, val, tmp_path):
    """The images were enlarged with their boxes: some lie outside the size that is stated."""
    report, sizes, found = checked(write("train", (48, 36), [[box] for box in BOXES]), val, tmp_path / "cache")
    assert sizes == {WIDE} and found == BOXES and report.counts["corrected_sizes"] == 4
    swapped, sizes, found = checked(write("train", HIGH, [[box] for box in BOXES]), val, tmp_path / "cache")
    assert sizes == {WIDE} and found == BOXES and swapped.counts["corrected_sizes"] == 4


def test_many_boxes_tell_the_smaller_frame(write, val, tmp_path):
    """That 24 boxes all end within half of the annotated size is no chance: they were halved with the image."""
    report, _, found = checked(write("train", (192, 144), [BOXES] * 6), val, tmp_path / "cache")
    assert found == BOXES * 6 and report.counts["corrected_sizes"] == 6
    enlarged = write("train", WIDE, [BOXES] * 6, stored=(192, 144))
    report, sizes, found = checked(enlarged, val, tmp_path / "cache")
    assert found == [doubled(box) for box in BOXES] * 6 and report.counts["scaled_boxes"] == 6


@pytest.mark.parametrize(
    ("stated", "box"),
    [
        ((192, 144), (5, 6, 20, 30)),  # halved: with its box or without?
        ((96, 96), (5, 6, 20, 80)),  # cropped or squeezed
        (HIGH, (5, 6, 20, 85)),  # turned afterwards, to the left or to the right
    ],
)
def test_images_in_doubt_are_left_out_or_refused(write, val, tmp_path, stated, box):
    train = write("train", stated, [[box]])
    with pytest.raises(UserError) as caught:
        check(train, val)
    assert "only 0 of the 1 images" in str(caught.value) and "have another size than annotated" in str(caught.value)
    assert f"1.jpg: 96x72, annotated {stated[0]}x{stated[1]}" in str(caught.value)
    more = write("more", WIDE, [[BOXES[0]], [BOXES[1]]], start=1)
    for path in more.img_dir.iterdir():
        path.rename(train.img_dir / path.name)
    one, two = (json.loads(split.ann_file.read_text()) for split in (train, more))
    one["images"] += two["images"]
    one["annotations"] += two["annotations"]
    train.ann_file.write_text(json.dumps(one))
    report, _, found = checked(train, val, tmp_path / "cache")
    assert found == BOXES[:2] and report.counts["other_frame"] == 1 and report.counts["lost_boxes"] == 1


def test_sizes_that_differ_by_rounding_are_the_same(write, val, tmp_path):
    assert check(write("train", (97, 71), [[BOXES[0]]]), val).splits["train"].faults() == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_polygons_and_masks_move_with_the_box(orientation):
    """The oracle: the pixels that a turned picture shows."""
    mask_of = pytest.importorskip("pycocotools.mask")
    stored = WIDE if orientation < 5 else HIGH
    box = turned_back(BOXES[0], orientation)
    x, y, w, h = box
    pixels = np.zeros((stored[1], stored[0]), np.uint8)
    pixels[y : y + h, x : x + w] = 1
    coded = mask_of.encode(np.asfortranarray(pixels))
    move = Move(stored, stored, orientation)
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    plain = {"size": [stored[1], stored[0]], "counts": _counts(pixels)}
    moved = move.annotation({"bbox": list(box), "area": 600, "segmentation": [polygon]})
    assert moved["bbox"] == list(BOXES[0]) and moved["area"] == 600
    points = np.array(moved["segmentation"][0]).reshape(-1, 2)
    assert (*points.min(0), *np.ptp(points, 0)) == BOXES[0]
    left, top, width, height = BOXES[0]
    for mask in ({"size": list(coded["size"]), "counts": coded["counts"].decode()}, plain):
        seen = mask_of.decode(move.segmentation(mask))
        assert seen.shape == (72, 96) and seen.sum() == 600
        assert seen[top : top + height, left : left + width].all()
    assert move.segmentation({"size": [1]}) == {"size": [1]} and move.segmentation([["x"]]) == [["x"]]


def _counts(pixels):
    """Run lengths of a mask by columns, from zeros."""
    flat = pixels.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


def test_scaled_masks():
    mask_of = pytest.importorskip("pycocotools.mask")
    coded = {"size": [144, 192], "counts": _counts(np.pad(np.ones((60, 40), np.uint8), ((12, 72), (10, 142))))}
    seen = mask_of.decode(Move((192, 144), WIDE).segmentation(coded))
    assert seen.shape == (72, 96) and cv2.boundingRect(seen) == (5, 6, 20, 30)
