"""`check-data` and `make-shapes` from the command line."""

import json
import re

from fcos_train.cli.main import main


def call(*arguments) -> int:
    return main(list(map(str, arguments)))


def test_make_and_check(tmp_path, capsys):
    data = tmp_path / "data"
    assert call("make-shapes", data, "--train", 6, "--val", 2, "--size", 64, 48, "--seed", 5) == 0
    before = sorted(data.rglob("*"))
    assert call("check-data", data, "--decode", "--json", tmp_path / "report.json") == 0
    out = capsys.readouterr().out
    assert "train: 6 images (0 without objects)" in out
    assert "val: 2 images decoded, 0 unreadable, 0 of another size than annotated" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["splits"]["val"]["counts"]["images"] == 2 and report["decode"][0]["unreadable"] == []
    assert sorted(data.rglob("*")) == before  # nothing is written beside the data


def test_real_set_with_faults_passes(shared_data, capsys):
    assert call("check-data", shared_data / "bccd_voc") == 0
    assert "! train: 2 boxes without area" in capsys.readouterr().out


def test_broken_images_fail_the_check(tmp_path, capsys):
    call("make-shapes", tmp_path, "--train", 6, "--val", 2, "--size", 64, 48)
    (tmp_path / "train2017" / "shapes_000003.jpg").write_bytes(b"x")
    assert call("check-data", tmp_path, "--decode") == 2
    shown = capsys.readouterr()
    assert re.search(r"error: 1 images cannot be decoded, e.g. .*shapes_000003.jpg", shown.err)
    assert shown.err.count("\n") == 1 and "1 are left out" in shown.err
    assert "5 images decoded, 0 unreadable" in shown.out and "! train: 1 images cannot be read: left out" in shown.out
    picture = tmp_path / "val2017" / "shapes_000001.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:300] + b"\0" * 300 + b"\xff\xd9")  # a sound header, and no pixels that can be decoded
    assert call("check-data", tmp_path, "--decode") == 2
    assert "error: 2 images cannot be decoded" in (said := capsys.readouterr()).err
    assert "1 are left out, training would stop at the others" in said.err and "delete" not in said.err


def test_asked_classes(tmp_path, capsys):
    call("make-shapes", tmp_path, "--train", 6, "--val", 2, "--size", 64, 48)
    assert call("check-data", tmp_path, "--classes", "person") == 2
    assert re.search("error: .*person", capsys.readouterr().err)
