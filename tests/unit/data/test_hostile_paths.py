"""Paths in annotations: only regular files inside the data folder, in COCO and VOC layout and in a config."""

import json
import os
import shutil

import pytest
from mmengine.config import Config

from fcos_train.cli.main import main
from fcos_train.config.dataset import data_of_config
from fcos_train.data import resolve
from fcos_train.data.inside import Boundary, readable, survey
from mmcv_overrides.errors import UserError
from tests.support.voc_folder import voc_folder

pytestmark = pytest.mark.hostile

FIRST = "shapes_000001.jpg"


@pytest.fixture
def data(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / "data")


@pytest.fixture
def stranger(shapes, tmp_path):
    """A folder that is no part of the data set, with an image in it."""
    (tmp_path / "private").mkdir()
    shutil.copy(shapes / "train2017" / FIRST, tmp_path / "private" / "x.jpg")
    return tmp_path / "private"


def rename(data, new, split="train", count=1):
    """Let the first images of a split be named otherwise; returns the annotation file."""
    file = data / "annotations" / f"instances_{split}2017.json"
    coco = json.loads(file.read_text())
    for image in coco["images"][:count]:
        image["file_name"] = new
    file.write_text(json.dumps(coco))
    return file


def relative(data, stranger):
    return "../../private/x.jpg"


def absolute(data, stranger):
    return str(stranger / "x.jpg")


def link_to_file(data, stranger):
    (data / "train2017" / "link.jpg").symlink_to(stranger / "x.jpg")
    return "link.jpg"


def chain_of_links(data, stranger):
    (data / "inner.jpg").symlink_to(stranger / "x.jpg")
    (data / "train2017" / "link.jpg").symlink_to("../inner.jpg")
    return "link.jpg"


def link_to_folder(data, stranger):
    (data / "train2017" / "sub").symlink_to(stranger)
    return "sub/x.jpg"


def link_to_parent(data, stranger):
    (data / "train2017" / "up").symlink_to("../..")
    return "up/private/x.jpg"


OUTSIDE = [relative, absolute, link_to_file, chain_of_links, link_to_folder, link_to_parent]


@pytest.mark.parametrize("attack", OUTSIDE)
def test_a_path_that_leads_outside_is_one_error_with_the_flag(data, stranger, tmp_path, attack):
    name = attack(data, stranger)
    file = rename(data, name)
    with pytest.raises(UserError) as caught:
        resolve(data, tmp_path / "cache")
    assert str(caught.value) == (
        f"{file}: 1 path leads outside the data folder {data}: '{name}' -> {stranger / 'x.jpg'}. Files there are not "
        f"read unless you allow it: --allow-outside {stranger} (launchers in test/: after --)"
    )
    assert not (tmp_path / "cache").exists()
    for allowed in ([stranger], [data, stranger.parent]):
        spec = resolve(data, tmp_path / "cache", allow_outside=allowed)
        assert (spec.report.counts["train"]["images"], spec.report.counts["train"]["missing_files"]) == (24, 0)


def test_all_of_both_splits_are_counted(data, stranger, tmp_path):
    train, val = rename(data, "../../private/x.jpg", count=3), rename(data, "/etc/passwd", "val", count=2)
    coco = json.loads(train.read_text())
    coco["images"][1]["file_name"] = "../../private/y.jpg"  # needs not exist: nobody looks
    train.write_text(json.dumps(coco))
    with pytest.raises(UserError) as caught:
        resolve(data, tmp_path / "cache")
    message = str(caught.value)
    assert f"{train}: 2 paths lead outside the data folder {data}: for example '../../private/x.jpg' -> " in message
    assert (
        f"; {val}: 1 path leads outside the data folder {data}: '/etc/passwd' -> {os.path.realpath('/etc/passwd')}. "
        in message
    )
    assert f"--allow-outside {os.path.realpath('/etc')} --allow-outside {stranger} " in message


def test_linked_parts_are_one_error_with_all_flags(data, tmp_path):
    (tmp_path / "disk").mkdir()
    for part in ("train2017", "val2017", "annotations"):
        shutil.move(data / part, tmp_path / "disk" / part)
        (data / part).symlink_to(tmp_path / "disk" / part)
    with pytest.raises(UserError) as caught:
        resolve(data, tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith(f"4 parts lead outside the data folder {data}: for example ")
    flags = [f"--allow-outside {tmp_path / 'disk' / part}" for part in ("annotations", "train2017", "val2017")]
    assert " ".join(flags) in message
    allowed = [flag.split()[1] for flag in flags]
    assert resolve(data, tmp_path / "cache", allow_outside=allowed).report.counts["train"]["images"] == 24


def test_the_data_folder_may_be_a_link_and_links_may_stay_inside(data, tmp_path):
    (tmp_path / "root").symlink_to(data)
    (data / "train2017").rename(data / "pictures")
    (data / "train2017").symlink_to("pictures")
    os.rename(data / "pictures" / FIRST, data / "first.jpg")
    (data / "pictures" / FIRST).symlink_to("../first.jpg")
    rename(data, "../pictures/shapes_000003.jpg", "val")
    for root in (tmp_path / "root", data):
        counts = resolve(root, tmp_path / "cache").report.counts
        assert [(counts[s]["images"], counts[s]["missing_files"]) for s in ("train", "val")] == [(24, 0), (8, 0)]


def pipe(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(("make", "kind"), [(pipe, "a named pipe"), (os.mkdir, "a folder"), (device, "a device")])
def test_special_files_are_refused_before_training(data, tmp_path, make, kind):
    make(data / "train2017" / "odd.jpg")
    file = rename(data, "odd.jpg")
    with pytest.raises(UserError) as caught:
        resolve(data, tmp_path / "cache", allow_outside=["/dev"])
    assert str(caught.value) == (
        f"{file}: 1 path leads to something that is not a regular file: 'odd.jpg' is {kind}. "
        "Only regular files are read: name such files in the list"
    )


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/", "nothing.jpg", "no/such/folder.jpg", "x\0y.jpg", "\0/y.jpg", "\ud800.jpg", "\ud800/x.jpg",
     "a" * 300, "a/" * 3000 + "x.jpg", "http://example.org/x.jpg", "file:///etc/passwd", "loop.jpg", "dangling.jpg"],
)  # fmt: skip
def test_names_that_no_file_has_are_left_out(data, tmp_path, name):
    (data / "train2017" / "loop.jpg").symlink_to("loop.jpg")
    (data / "train2017" / "dangling.jpg").symlink_to("gone.jpg")
    rename(data, name)
    spec = resolve(data, tmp_path / "cache")
    counts = spec.report.counts["train"]
    assert (counts["images"], counts["missing_files"]) == (23, 1)
    "\n".join(spec.report.lines()).encode()  # can be printed


@pytest.mark.parametrize("verb", [["check-data"], ["train", "fcos/fcos_tiny_shapes", "--data-path"]])
def test_the_flag_of_the_commands(data, stranger, tmp_path, capsys, verb, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rename(data, "../../private/x.jpg")
    assert main([*verb, str(data)]) == 2
    assert f"--allow-outside {stranger}" in capsys.readouterr().err
    assert not list(tmp_path.glob("work_dirs/**/*.log"))
    flags = ["--allow-outside", str(tmp_path / "none"), "--allow_outside", str(stranger)]
    assert main([*verb, str(data), *flags]) == 2
    assert capsys.readouterr().err == f"error: --allow-outside {tmp_path / 'none'}: no such folder\n"


def test_check_data_decodes_what_was_allowed(data, stranger, capsys):
    rename(data, "../../private/x.jpg")
    (stranger / "x.jpg").write_bytes(b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff" + b"\0" * 9)
    assert main(["check-data", str(data), "--decode", "--allow-outside", str(stranger)]) == 2
    said = capsys.readouterr()
    assert "train: 23 images decoded, 0 unreadable" in said.out
    for text in (said.out, said.err):
        assert "private/x.jpg: its 65535 x 65535 pixels are more than the limit of 178,956,970" in text


# ---- VOC ----


XML = (
    "<annotation><filename>{name}</filename><size><width>160</width><height>128</height></size>"
    "<object><name>cat</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object>"
    "</annotation>"
)


@pytest.fixture
def voc(shapes, tmp_path):
    return voc_folder(tmp_path / "voc", shapes / "train2017" / FIRST, lambda number: XML.format(name=f"{number}.jpg"))


def test_a_voc_list_that_leads_outside(voc, stranger, tmp_path):
    (stranger / "x.xml").write_text(XML.format(name="../../private/x.jpg"))
    list_file = voc / "ImageSets/Main/train.txt"
    list_file.write_text("1\n2\n../../private/x\n")
    with pytest.raises(UserError) as caught:
        resolve(voc, tmp_path / "cache")
    assert str(caught.value) == (
        f"{list_file}: 1 path leads outside the data folder {voc}: '../../private/x.xml' -> {stranger / 'x.xml'}. "
        f"Files there are not read unless you allow it: --allow-outside {stranger} (launchers in test/: after --)"
    )
    assert resolve(voc, tmp_path / "cache", allow_outside=[stranger]).report.counts["train"]["images"] == 3


@pytest.mark.parametrize(
    ("name", "real"),
    [("../../private/x.jpg", "{stranger}/x.jpg"), ("/dev/zero", "/dev/zero"), ("/etc/passwd", "{etc}/passwd")],
)
def test_a_file_name_in_xml_that_leads_outside(voc, stranger, tmp_path, name, real):
    os.rename(voc / "JPEGImages" / "3.jpg", voc / "JPEGImages" / "other.jpg")  # so that the XML's name counts
    (voc / "Annotations" / "3.xml").write_text(XML.format(name=name))
    real = real.format(stranger=stranger, etc=os.path.realpath("/etc"))
    with pytest.raises(UserError, match="^.*train.txt: 1 path leads outside the data folder") as caught:
        resolve(voc, tmp_path / "cache")
    assert f"'{name}' -> {real}. " in str(caught.value)


def test_special_files_among_the_annotations(voc, tmp_path):
    (voc / "Annotations" / "3.xml").unlink()
    pipe(voc / "Annotations" / "3.xml")
    with pytest.raises(UserError, match="train.txt: 1 path leads to something .*: '3.xml' is a named pipe"):
        resolve(voc, tmp_path / "cache")


def test_linked_parts_of_a_voc_folder(voc, tmp_path):
    for part in ("JPEGImages", "Annotations"):
        shutil.move(voc / part, tmp_path / "disk" / part)
        (voc / part).symlink_to(tmp_path / "disk" / part)
    with pytest.raises(UserError, match="^2 parts lead outside") as caught:
        resolve(voc, tmp_path / "cache")
    flags = f"--allow-outside {tmp_path}/disk/Annotations --allow-outside {tmp_path}/disk/JPEGImages"
    assert flags in str(caught.value)
    assert resolve(voc, tmp_path / "cache", allow_outside=[tmp_path / "disk"]).report.counts["train"]["images"] == 3


# ---- a config that names its files itself ----


def config(data, **more):
    def loader(split):
        files = {"ann_file": f"annotations/instances_{split}2017.json", "data_prefix": {"img": f"{split}2017/"}}
        return {"dataset": {"type": "CocoDataset", "data_root": str(data), **files, **more}}

    return Config({"train_dataloader": loader("train"), "val_dataloader": loader("val")})


@pytest.mark.parametrize("attack", OUTSIDE)
def test_a_config_reads_its_image_folder_alone(data, stranger, tmp_path, attack):
    name = attack(data, stranger)
    file = rename(data, name)
    with pytest.raises(UserError) as caught:
        data_of_config(config(data), tmp_path / "cache", None)
    assert f"{file}: 1 path leads outside the data folder {data / 'train2017'}: '{name}' -> {stranger}" in str(
        caught.value
    )
    spec = data_of_config(config(data), tmp_path / "cache", None, [str(stranger)])
    assert spec.report.counts["train"]["images"] == 24


def test_a_configs_image_folder_may_be_a_link(data, tmp_path):
    shutil.move(data / "train2017", tmp_path / "disk")
    (data / "train2017").symlink_to(tmp_path / "disk")
    assert data_of_config(config(data), tmp_path / "cache", None).report.counts["train"]["images"] == 24


@pytest.mark.parametrize("kind", ["LVISV1Dataset", "several"])
def test_data_sets_that_are_not_checked_otherwise(data, stranger, tmp_path, kind):
    cfg = config(data, **({} if kind == "several" else {"type": kind}))
    if kind == "several":
        one = cfg.train_dataloader.dataset
        cfg.train_dataloader.dataset = {"type": "ConcatDataset", "datasets": [one, one]}
    assert data_of_config(cfg, tmp_path / "cache", None) is None
    file = rename(data, "../../private/x.jpg")
    with pytest.raises(UserError, match=f"{file}: 1 path leads outside the data folder .*--allow-outside {stranger} "):
        data_of_config(cfg, tmp_path / "cache", None)
    assert data_of_config(cfg, tmp_path / "cache", None, [str(stranger)]) is None


def test_boundaries(tmp_path):
    (tmp_path / "more").mkdir()
    boundary = Boundary(tmp_path / "data", [tmp_path / "more"])
    inside = {"data": True, "data/a": True, "database": False, "more/a/b": True, "": False}
    assert {name: boundary.holds(str(tmp_path / name)) for name in inside} == inside
    assert Boundary("/").holds("/a") and Boundary("/").holds("/")


def test_each_folder_is_listed_once(data, monkeypatch):
    """118,287 images in one folder must not be 118,287 questions to a file system on a network."""
    asked = []
    for module, name in ((os, "scandir"), (os, "stat"), (os.path, "realpath")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name, **k: asked.append(name) or real(*a, **k))
    boundary = Boundary(data)
    asked.clear()
    found = survey(data / "train2017", [f"shapes_{i:06d}.jpg" for i in range(1, 30)], boundary)
    assert len(found.absent) == 5 and not found.outside and not found.special
    assert sorted(name for name in asked if name != "stat") == ["realpath", "scandir"] and len(asked) <= 2
    assert readable(data / "train2017", [FIRST, "none.jpg", "../val2017/" + FIRST]) == [FIRST]
