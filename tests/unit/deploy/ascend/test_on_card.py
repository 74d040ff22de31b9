"""An `.om` is run with ais_bench; a script takes its place here."""

from pathlib import Path

import pytest

from fcos_train.cli.main import main
from tests.support import ais_bench

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts" / "ascend"


@pytest.fixture
def card(tmp_path, monkeypatch) -> Path:
    """A PATH with an ais_bench that records its words and writes two outputs; returns the file with the words."""
    tools, said = ais_bench.stand_in(
        tmp_path, "echo boxes > $out/$name/img1_0.bin; echo labels > $out/$name/img1_1.bin"
    )
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    (tmp_path / "m.om").write_bytes(b"om")
    return said


def test_om_goes_to_ais_bench_where_there_is_one(tmp_path, bins, card, capsys):
    fixed = ["--model", f"{tmp_path}/m.om", "--device", "0", "--outfmt", "BIN", "--input"]
    rest = ["--output", f"{tmp_path}/out", "--output_dirname", "run"]
    # A whole folder is passed as one word: the names of thousands of files do not fit into a command.
    for inputs, said in ((f"{bins}/img1.bin", f"{bins}/img1.bin"), (str(tmp_path / "coco.info"), str(bins))):
        words = ["--model", str(tmp_path / "m.om"), "--input", inputs, "--output", str(tmp_path / "out")]
        assert main(["ascend", "infer", *words, "--layout", "ais", "--output-dirname", "run"]) == 0
        assert card.read_text().split() == [*fixed, said, *rest]
    assert sorted(p.name for p in (tmp_path / "out" / "run").iterdir()) == ["img1_0.bin", "img1_1.bin"]
    # benchmark writes the same results to another folder, numbered from 1
    assert main(["ascend", "infer", *words, "--device-id", "2"]) == 0
    folder = tmp_path / "out" / "dumpOutput_device2"
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"img1_1.bin": "boxes\n", "img1_2.bin": "labels\n"}
    (tmp_path / "bin" / "ais_bench").write_text("#!/bin/sh\nexit 7\n")
    assert main(["ascend", "infer", *words]) == 2
    assert "ais_bench ended with status 7" in capsys.readouterr().err


def test_flags_of_ais_bench_are_passed_on(tmp_path, bins, card):
    words = f"--model {tmp_path}/m.om --input {bins} --output {tmp_path}/out --output_dirname run"
    words += " --batchsize 2 --loop 3 --debug 1 --dymBatch 2 --dymHW 4,6 --warmup_count 0 --dymDims input:2,3,4,6"
    words += " --profiler true --dump 0 --run_mode array --outputSize 9,9 --pure_data_type random"
    words += " --output_batchsize_axis 1 --auto_set_dymdims_mode --acl_json_path=a.json"
    assert main(["ascend", "infer", "--layout", "ais", *words.split()]) == 0
    said = card.read_text().split()
    pairs = dict(zip(said[::2], said[1::2], strict=True))
    assert pairs == {
        "--model": f"{tmp_path}/m.om", "--device": "0", "--outfmt": "BIN", "--batchsize": "2", "--loop": "3",
        "--debug": "1", "--warmup_count": "0", "--pure_data_type": "random", "--output_batchsize_axis": "1",
        "--dymBatch": "2", "--dymHW": "4,6", "--dymDims": "input:2,3,4,6", "--profiler": "1", "--run_mode": "array",
        "--outputSize": "9,9", "--auto_set_dymdims_mode": "1", "--acl_json_path": "a.json", "--input": str(bins),
        "--output": f"{tmp_path}/out", "--output_dirname": "run",
    }  # fmt: skip


def test_own_script_of_that_name_is_not_taken_for_the_vendors(tmp_path, bins, monkeypatch, capsys):
    monkeypatch.setenv("PATH", f"{SCRIPTS}:/usr/bin:/bin")
    (tmp_path / "m.om").write_bytes(b"om")
    assert main(["ascend", "infer", "--model", f"{tmp_path}/m.om", "--input", str(bins)]) == 2
    assert "ais_bench is not installed here" in capsys.readouterr().err
