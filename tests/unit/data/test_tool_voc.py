"""VOC lists and XML files as tools write them: names, paths, encodings, other files beside the images."""

import codecs
import json

import pytest

from fcos_train.data import resolve
from mmcv_overrides.errors import UserError
from mmcv_overrides.text_encoding import UnknownEncoding, decode_text
from tests.support.tool_sets import picture, voc_set, xml


def names(split):
    return [image["file_name"] for image in json.loads(split.ann_file.read_text(encoding="utf-8"))["images"]]


@pytest.mark.parametrize(
    ("stem", "line"),
    [
        ("my photo", "my photo"),
        ("my photo", "my photo  1"),
        ("my photo 1", "my photo 1"),  # a name, no flag
        ("a (1)", "a (1) -1"),
        ("a", "a.jpg"),
        ("a", "a.JPG 1"),
        ("a", "a.xml"),
        ("a", "JPEGImages/a.jpg"),
        ("图片", "图片"),
        ("a", "/data/VOC/JPEGImages/a.jpg"),
        ("a", "D:\\VOC\\JPEGImages\\A.jpg"),
        ("a", "./JPEGImages/a.jpg Annotations/a.xml"),
        ("a", "a.jpg 10,20,30,40,0"),
        ("a.b", "a.b"),
        ("a.b", "a.b.jpg"),
        ("a.jpg", "a.jpg"),  # a.jpg.xml
        ("day1/a", "day1/a"),
        ("day1/a", "a"),
        ("day1/a", "VOC/JPEGImages/day1/a.jpg"),
    ],
)
def test_what_a_line_of_a_list_means(tmp_path, stem, line):
    root = voc_set(tmp_path / "set", (stem, "v"), suffix="" if stem == "a.jpg" else ".jpg")
    (root / "ImageSets/Main/train.txt").write_text(f"{line}\r\n\r\n")
    spec = resolve(root, tmp_path / "cache")
    counts = spec.report.counts["train"]
    assert (counts["images"], counts["boxes"], counts["missing_xml"]) == (1, 1, 0)
    assert names(spec.train) == [stem if stem == "a.jpg" else f"{stem}.jpg"]


def test_lines_that_mean_nothing_or_the_same_are_counted(tmp_path):
    root = voc_set(tmp_path / "set", ("a", "day1/x", "day2/x", "b", "none", "v"))
    (root / "ImageSets/Main/train.txt").write_text("a\na.jpg\nx\nb\nnone here 1\n")
    counts = resolve(root, tmp_path / "cache").report
    split = counts.splits["train"]
    assert (split.counts["images"], split.counts["repeated_images"], split.counts["missing_xml"]) == (2, 1, 2)
    assert split.examples["missing_xml"] == ["x.xml", "none here.xml"]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_lists_of_windows_editors(tmp_path, mark):
    root = voc_set(tmp_path / "set", ("图1", "b", "v"))
    encoding = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}[mark]
    (root / "ImageSets/Main/train.txt").write_bytes(mark + "图1\r\nb\r\n".encode(encoding))
    assert names(resolve(root, tmp_path / "cache").train) == ["图1.jpg", "b.jpg"]
    (root / "ImageSets/Main/train.txt").write_bytes("图1\nb\n".encode("gbk"))  # valid UTF-8, of other letters
    assert names(resolve(root, tmp_path / "cache").train) == ["图1.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("declared", "encoding", "name", "guessed"),
    [
        ("gb2312", "gb2312", "汽车", 0),
        ("GB2312", "gbk", "喆車", 0),  # declared too narrow
        ("gbk", "gbk", "模", 0),  # its bytes are a letter of UTF-8, too
        ("Shift_JIS", "shift_jis", "自転車", 0),
        ("big5", "big5", "汽車", 0),
        ("euc-kr", "euc-kr", "자동차", 0),
        ("iso-8859-1", "latin-1", "Müll", 0),
        ("utf-16", "utf-16", "汽车", 0),
        ("utf-16", "utf-16-le", "汽车", 0),  # no mark
        ("utf-16", "utf-8", "汽车", 0),  # declared wrong, as .NET does
        ("gb2312", "utf-8", "汽车", 0),
        ("utf-8", "utf-8-sig", "汽车", 0),
        (None, "gbk", "汽车", 1),
        ("utf-8", "gbk", "汽车", 1),
        (None, "shift_jis", "ひまわり", 1),
        (None, "gbk", "汽车朱镕基", 1),
        (None, "utf-8", "汽车", 0),
    ],
)
def test_encodings_of_xml(tmp_path, declared, encoding, name, guessed):
    root = voc_set(tmp_path / "set", ("a", "b", "v"))
    for path in (root / "Annotations").iterdir():
        path.write_bytes(xml(name=name, declared=declared).encode(encoding))
    spec = resolve(root, tmp_path / "cache")
    counts = spec.report.counts["train"]
    assert spec.classes == (name,)
    assert (counts["boxes"], counts["unreadable_xml"], counts["encoding"]) == (2, 0, 2 * guessed)


def test_text_that_may_be_in_several_encodings_is_not_guessed(tmp_path):
    root = voc_set(tmp_path / "set", ("a", "b", "v"))
    (root / "Annotations/a.xml").write_bytes(xml(name="自転車").encode("shift_jis"))
    split = resolve(root, tmp_path / "cache").report.splits["train"]
    assert (split.counts["images"], split.counts["unreadable_xml"]) == (1, 1)
    assert "a.xml: its encoding is neither UTF-8 nor declared" in split.examples["unreadable_xml"][0]
    for text in ("Müll", "café à", "éa", "Größe"):
        with pytest.raises(UnknownEncoding):
            decode_text(text.encode("latin-1"))
    assert decode_text(b"plain", "no-such-encoding") == ("plain", "utf-8")


def test_other_files_of_the_stem_are_not_the_image(tmp_path):
    root = voc_set(tmp_path / "set", ("a", "b", "c", "d", "v"))
    folder = root / "JPEGImages"
    for stem in "abcd":
        for suffix in (".xml", ".json", ".txt", ".npy"):
            (folder / f"{stem}{suffix}").write_text("x")
    (folder / "b.jpg").rename(folder / "b.JPEG")
    picture(folder / "a.png")  # a mask; JPEG is the photograph
    for suffix in (".png", ".bmp"):
        picture(folder / f"c{suffix}")
        picture(folder / f"d{suffix}")
    for stem in "cd":
        (folder / f"{stem}.jpg").unlink()
    (root / "Annotations/c.xml").write_text(xml(file="C:\\x\\c.bmp"))
    spec = resolve(root, tmp_path / "cache")
    split = spec.report.splits["train"]
    assert names(spec.train) == ["a.jpg", "b.JPEG", "c.bmp"]
    assert (split.counts["several_files"], split.counts["images_in_file"]) == (1, 4)
    assert split.examples["several_files"] == ["d: d.bmp, d.png"]


def test_images_are_found_in_other_folders_and_by_the_name_in_the_xml(tmp_path):
    root = voc_set(tmp_path / "set", ("a", "b", "v"))
    (root / "JPEGImages/day1").mkdir()
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/day1/A.jpg")
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/photo.jpg")
    (root / "Annotations/b.xml").write_text(xml(file="D:\\x\\photo"))
    assert names(resolve(root, tmp_path / "cache").train) == ["day1/A.jpg", "photo.jpg"]


def test_xml_of_another_kind_or_in_a_namespace(tmp_path):
    root = voc_set(tmp_path / "set", ("a", "b", "v"))
    (root / "Annotations/a.xml").write_text(
        xml().replace("<annotation>", '<annotation xmlns="http://example.org/voc">')
    )
    (root / "Annotations/b.xml").write_text("<opt><box/></opt>")
    split = resolve(root, tmp_path / "cache").report.splits["train"]
    assert (split.counts["boxes"], split.counts["unreadable_xml"]) == (1, 1)
    assert "b.xml: it is no VOC annotation: its root is <opt>" in split.examples["unreadable_xml"][0]
    for stem in "ab":
        (root / f"Annotations/{stem}.xml").write_text("<opt/>")
    with pytest.raises(UserError, match="has no classes, so there is nothing to train on; train: 2 annotation files"):
        resolve(root, tmp_path / "cache")


def test_objects_without_a_name_are_counted(tmp_path):
    root = voc_set(tmp_path / "set", ("a", "b", "v"))
    (root / "Annotations/a.xml").write_text(xml(name=" "))
    spec = resolve(root, tmp_path / "cache")
    counts = spec.report.counts["train"]
    assert spec.classes == ("cat",)
    assert (counts["unnamed_objects"], counts["boxes"], counts["boxes_in_file"], counts["images"]) == (1, 1, 2, 2)


@pytest.mark.parametrize(("text", "crowd"), [("1", 1), ("true", 1), ("0", 0), ("Unspecified", 0), ("", 0)])
def test_difficult(tmp_path, text, crowd):
    root = voc_set(tmp_path / "set", ("a", "b", "v"))
    (root / "Annotations/a.xml").write_text(xml(difficult=text))
    assert resolve(root, tmp_path / "cache").report.counts["train"]["crowd"] == crowd


def test_lists_that_name_nothing_say_what_they_lack(tmp_path):
    root = voc_set(tmp_path / "set", ("a", "v"))
    (root / "ImageSets/Main/train.txt").write_text("images of today\n")
    with pytest.raises(UserError, match=r"val.txt \(train.txt: no images of today.xml in Annotations/\)"):
        resolve(root, tmp_path / "cache")
