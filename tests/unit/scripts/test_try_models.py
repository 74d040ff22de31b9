"""scripts/try_models.py: every family is tried or left out with a reason, configs shrink, results become the table."""

from __future__ import annotations

import json
from pathlib import Path

import mmdet
import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    """The scripts import each other by name, as when they are run."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_every_family_is_tried_or_left_out():
    from model_families import LEFT_OUT, REPRESENTATIVES, families

    known = families(CONFIGS)
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert set(known) | set(LEFT_OUT) == folders and not set(known) & set(LEFT_OUT)
    absent = [name for family, name in known.items() if not (CONFIGS / family / f"{name}.py").is_file()]
    assert absent == []
    assert set(REPRESENTATIVES) <= set(known)


def test_the_plainest_config_represents_a_family(tmp_path):
    from model_families import representative

    for name in ("x_r101_fpn_1x_coco", "x_r50_fpn_2x_coco", "x_r50_fpn_1x_coco", "x_r50-caffe_fpn_1x_coco"):
        (tmp_path / f"{name}.py").touch()
    assert representative(tmp_path) == "x_r50_fpn_1x_coco"


def test_sizes_shrink_and_factors_stay():
    from model_trial import shrink, thin_out

    pipeline = [
        {"type": "RandomChoiceResize", "scales": [(1333, 640), (1333, 800)], "keep_ratio": True},
        {"type": "RandomCenterCropPad", "crop_size": (511, 511), "ratios": (0.6, 1.0)},
        {"type": "RandomResize", "scale": (1024, 1024), "ratio_range": (0.1, 2.0)},
        {"type": "RandomChoice", "transforms": [[{"type": "Resize", "scale": (64, 600)}]]},
        {"type": "Pad", "size": None, "size_divisor": 32},
    ]
    shrink(pipeline)
    assert pipeline[0]["scales"] == [(96, 96), (96, 96)]
    assert pipeline[1] == {"type": "RandomCenterCropPad", "crop_size": (127, 127), "ratios": (0.6, 1.0)}
    assert pipeline[2] == {"type": "RandomResize", "scale": (96, 96), "ratio_range": (0.1, 2.0)}
    assert pipeline[3]["transforms"][0][0]["scale"] == (64, 96)
    assert pipeline[4] == {"type": "Pad", "size": None, "size_divisor": 32}
    cfg = {"rpn_proposal": {"nms_pre": 2000, "max_per_img": 50}, "rcnn": [{"sampler": {"num": 512}}]}
    thin_out(cfg)
    assert cfg == {"rpn_proposal": {"nms_pre": 200, "max_per_img": 50}, "rcnn": [{"sampler": {"num": 64}}]}


def test_a_resnet_gets_a_quarter_of_its_channels():
    from model_trial import slim

    def model(**backbone):
        backbone = {"type": "ResNet", "depth": 50, "norm_cfg": {"type": "BN"}, **backbone}
        return {"backbone": backbone, "neck": [{"type": "FPN", "in_channels": [256, 512, 1024, 2048]}, {"type": "BFP"}]}

    plain = model()
    slim(plain)
    assert plain["backbone"]["base_channels"] == 16 and plain["neck"][0]["in_channels"] == [64, 128, 256, 512]
    for other in (model(depth=18), model(type="Res2Net"), model(norm_cfg={"type": "GN"}), model(plugins=[{}])):
        slim(other)
        assert "base_channels" not in other["backbone"] and other["neck"][0]["in_channels"][0] == 256


def outcome(**steps: str | tuple[str, str]) -> dict:
    """A result: step -> status, or (status, message)."""
    pairs = {k: (v, "") if isinstance(v, str) else v for k, v in steps.items()}
    done = {k: {"status": status, "message": message, "seconds": 1} for k, (status, message) in pairs.items()}
    return {"family": "f", "config": "f/c", "steps": done, "seconds": 3, "peak_mb": 9}


FINE = {"train": "ok", "resume": "ok", "demo": "ok"}
VERDICTS = {
    "works": (outcome(**FINE, export="ok"), "works", "", "verified"),
    "works without export": (outcome(**FINE, export=("refused", "error: masks")), "works", "", "refused"),
    "extra": (
        outcome(train=("refused", "error: PAA needs sklearn, which is not installed: pip install scikit-learn")),
        "needs an extra",
        "`pip install scikit-learn`",
        "",
    ),
    "refused": (outcome(train=("refused", "error: no maps")), "not supported", "train: error: no maps", ""),
    "a traceback that names a package is a fault": (
        outcome(train=("traceback", "RuntimeError: pip install x")),
        "not supported",
        "train: traceback: RuntimeError: pip install x",
        "",
    ),
    "not resumed": (
        outcome(train="ok", resume=("traceback", "KeyError: 'x'")),
        "not supported",
        "resume: traceback: KeyError: 'x'",
        "",
    ),
    "out of time": (outcome(train=("ended", "not done after 9 s")), "not finished", "train: not done after 9 s", ""),
    "nothing came back": (outcome(), "not supported", "train: ended: not run", ""),
}


@pytest.mark.parametrize("row", VERDICTS)
def test_verdict(row):
    from try_models import exported, verdict

    result, kind, remark, onnx = VERDICTS[row]
    assert (*verdict(result), exported(result)) == (kind, remark, onnx)


def test_table_counts_and_results_go_on(tmp_path):
    from try_models import read_results, table

    results = {"a": outcome(**FINE), "b": outcome(train=("refused", "error: a | b\nc")), "c": outcome(**FINE)}
    path = tmp_path / "results.jsonl"
    lines = [{**result, "family": family} for family, result in results.items()]
    again = {**outcome(**FINE), "family": "b", "config": "b/later"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = table(read_results(path), {}, ["ssd"], "2026-01-01", "torch 0")
    assert "3 families: 2 work, 0 work with an extra, 0 need an extra, 1 are not supported,\n0 were not fin" in text
    assert "0 refused, 0 not finished within the limit of time, 3 not tried." in text
    assert "Not tried in this run: ssd." in text
    assert "| b | `c` | not supported |  | train: error: a / b c |" in text
    assert "| reid | re-identification of persons, not detection |" in text
    with path.open("a") as file:
        file.write(json.dumps(again) + "\n")
    assert read_results(path)["b"]["config"] == "b/later"


def test_a_family_tried_with_its_extra(tmp_path):
    from try_models import read_results, table

    lacking = outcome(train=("refused", "error: PAA needs sklearn, which is not installed: pip install scikit-learn"))
    path = tmp_path / "results.jsonl"
    still = outcome(train=("refused", "error: no such file"))
    lines = [{**lacking, "family": "paa"}, {**outcome(**FINE), "family": "paa", "extras": True}]
    lines += [{**lacking, "family": "lad"}, {**still, "family": "lad", "extras": True}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = table(read_results(path), read_results(path, extras=True), [], "2026-01-01", "torch 0")
    assert "| paa | `c` | works with the extra |  | `pip install scikit-learn` |" in text
    assert "`pip install scikit-learn`; with it: not supported (train: error: no such file) |" in text
    assert "2 families: 0 work, 1 work with an extra, 1 need an extra, 0 are not supported," in text


LINES = {
    "PAA needs sklearn, which is not installed: pip install scikit-learn": "`pip install scikit-learn`",
    "A needs a: pip install 'a<2' b && pip install --no-deps c": "`pip install 'a<2' b && pip install --no-deps c`",
    "A needs a: pip install git+https://x.y/a_b.git": "`pip install git+https://x.y/a_b.git`",
}


@pytest.mark.parametrize("message", LINES)
def test_the_whole_install_line_is_the_remark(message):
    from try_models import verdict

    assert verdict(outcome(train=("refused", f"error: {message}"))) == ("needs an extra", LINES[message])


def test_an_export_that_was_tried_alone_is_added(tmp_path):
    from try_models import exported, read_results

    path = tmp_path / "results.jsonl"
    alone = outcome(export=("refused", "error: masks"))
    path.write_text("".join(json.dumps(line) + "\n" for line in (outcome(**FINE), alone)))
    result = read_results(path)["f"]
    assert set(result["steps"]) == {"train", "resume", "demo", "export"} and exported(result) == "refused"


def test_a_process_that_takes_too_long_or_dies_is_a_result(tmp_path, monkeypatch):
    import try_models

    for program, seconds, why in (
        ("import time; time.sleep(60)", 1, "not done after 1 s"),
        ("import os; os._exit(3)", 60, "the process ended with status 3"),
    ):
        fake = tmp_path / "model_trial.py"
        fake.write_text(program)
        monkeypatch.setattr(try_models, "ROOT", tmp_path)
        (tmp_path / "scripts").mkdir(exist_ok=True)
        fake.rename(tmp_path / "scripts" / "model_trial.py")
        result = try_models.run_one("f", "f/c", tmp_path, tmp_path / "out", seconds, 4)
        assert result["steps"]["train"] == {"status": "ended", "message": why, "seconds": seconds}


def test_one_family_is_tried(tmp_path):
    """SSD with MobileNet: the whole command, for the smallest of the families that had failed."""
    import try_models

    data = try_models.draw_data(tmp_path / "data")
    result = try_models.run_one("ssd", "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco", data, tmp_path / "t", 400, 12)
    assert {name: step["status"] for name, step in result["steps"].items()} == {
        "train": "ok",
        "resume": "ok",
        "demo": "ok",
    }
    assert try_models.verdict(result) == (try_models.WORKS, "")
    assert [path.suffix for path in (tmp_path / "t" / "drawn").iterdir()] == [".jpg"]
