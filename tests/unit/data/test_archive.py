"""Archives of data sets: unpacked once and whole, or refused in one line before anything is written."""

import io
import os
import stat
import tarfile
import zipfile

import pytest

from fcos_train.cli.main import main
from fcos_train.data import archive, resolve
from fcos_train.data.archive import unpacked
from mmcv_overrides.errors import UserError
from tests.support.yolo_set import yolo_set


@pytest.fixture
def packed(tmp_path):
    """packed([(name, content)], 'x.zip') -> path; a content that is a function changes the entry."""

    def make(files, name="x.zip"):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for entry, content in files:
                file.writestr(entry, content)
        return path

    return make


def link(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_a_set_in_an_archive_is_read_and_unpacked_once(tmp_path, kind, monkeypatch):
    import shutil

    yolo_set(tmp_path / "source" / "mine")
    path = shutil.make_archive(str(tmp_path / "data"), kind, tmp_path / "source")
    (tmp_path / "cache").mkdir()
    spec = resolve(path, tmp_path / "cache")
    assert spec.layout == "YOLO" and spec.report.counts["train"]["boxes"] == 2
    assert "7 files" in spec.report.notes[0] and "unpacked to" in spec.report.notes[0]
    monkeypatch.setattr(archive, "_unpack", None)  # the second time nothing is
    again = resolve(path, tmp_path / "cache")
    assert again.train.img_dir == spec.train.img_dir and "was unpacked before" in again.report.notes[0]
    assert len(left(tmp_path)) == 4  # source, archive, cache, and one folder


def test_another_content_is_unpacked_anew(packed):
    one, _ = unpacked(packed([("a.txt", "1")]))
    two, _ = unpacked(packed([("a.txt", "2")]))
    assert one != two and (one / "a.txt").read_text() == "1" and (two / "a.txt").read_text() == "2"


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([("../x.txt", "")], r"the name '../x.txt' leads outside the folder"),
        ([("a/../../x.txt", "")], "leads outside the folder"),
        ([("/etc/x.txt", "")], "leads outside the folder"),
        ([("..\\x.txt", "")], "leads outside the folder"),
        ([("C:/x.txt", "")], "leads outside the folder"),
        ([("a\x1b[2Jb.txt", "")], r"'a\\x1b\[2Jb.txt' leads outside"),
        ([(link("a.jpg"), "/etc/passwd")], "a.jpg is a link or a special file"),
        ([("a.txt", "1"), ("./a.txt", "2")], "it holds a.txt twice"),
        ([("a.txt", "1"), ("a.txt/b.txt", "2")], "cannot be unpacked to"),
        ([], "it holds no files"),
        ([("folder/", "")], "it holds no files"),
    ],
)
def test_unsafe_archives_are_refused(packed, tmp_path, files, fault):
    path = packed(files)
    with pytest.raises(UserError, match=fault) as caught:
        unpacked(path)
    assert "\n" not in str(caught.value) and left(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_special_members_of_a_tar(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(UserError, match="a.jpg is a link or a special file"):
        unpacked(tmp_path / "x.tar")
    assert left(tmp_path) == ["x.tar"]


def test_limits(packed, tmp_path, monkeypatch):
    path = packed([("a.txt", "0" * 1_000_000), ("b.txt", "x")])
    monkeypatch.setattr(archive, "FREE_RATIO", 1000)
    with pytest.raises(UserError, match=r"its \d+ bytes would become 1000001, more than 200 times as many"):
        unpacked(path)
    monkeypatch.setattr(archive, "MAX_RATIO", 10_000)
    monkeypatch.setattr(archive, "MAX_FILES", 1)
    with pytest.raises(UserError, match="it has 2 files, more than 1"):
        unpacked(path)
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda place: type("", (), {"free": 5})())
    with pytest.raises(UserError, match=r"it needs 1 MB, and .* has 0 MB free"):
        unpacked(path)
    assert left(tmp_path) == ["x.zip"]


def test_damaged_and_encrypted_archives(packed, tmp_path):
    path = packed([("a.txt", os.urandom(2000))])
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with pytest.raises(UserError, match="it is damaged or of an unknown kind"):
        unpacked(path)
    changed = bytearray(whole)
    changed[100] ^= 255
    path.write_bytes(changed)
    with pytest.raises(UserError, match="damaged"):
        unpacked(path)
    changed = bytearray(whole)
    changed[6] |= 1
    changed[whole.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(changed)
    with pytest.raises(UserError, match="a.txt is encrypted"):
        unpacked(path)
    (tmp_path / "y.tgz").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="damaged"):
        unpacked(tmp_path / "y.tgz")
    assert left(tmp_path) == ["x.zip", "y.tgz"]


def test_names_of_other_systems(packed):
    plain = zipfile.ZipInfo("图.txt".encode("gbk").decode("cp437"))
    folder, note = unpacked(
        packed([(plain, "1"), ("a\\b.txt", "2"), ("__MACOSX/._a.jpg", "3"), ("a/._c.jpg", "4"), ("a/.DS_Store", "5")])
    )
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert "a/b.txt" in found and len(found) == 2 and "2 files" in note[0]


def test_beside_a_folder_that_cannot_be_written(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = packed([("a.txt", "1")])
    real = os.access
    monkeypatch.setattr(archive.os, "access", lambda place, mode: place != tmp_path and real(place, mode))
    folder, _ = unpacked(path)
    assert folder.is_relative_to(tmp_path / "cache") and (folder / "a.txt").read_text() == "1"


def test_on_the_command_line(packed, capsys):
    assert main(["check-data", str(packed([("../x", "1")]))]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_a_member_larger_than_it_states(tmp_path):
    member = archive._Member("a.txt", 3, lambda: io.BytesIO(b"1234"))
    with pytest.raises(UserError, match="larger than the archive states"):
        archive._write(tmp_path / "x.tar", tmp_path / "a.txt", member)
    with pytest.raises(UserError, match="is cut off"):
        archive._write(tmp_path / "x.tar", tmp_path / "b.txt", archive._Member("b", 9, lambda: io.BytesIO(b"1234")))
