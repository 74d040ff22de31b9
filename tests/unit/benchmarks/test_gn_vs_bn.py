"""The comparison of GroupNorm and BatchNorm: equal weights, fitting statistics, figures that follow from the times."""

import json

import cv2
import numpy as np
import pytest
import torch

from tests.support.commands import ROOT

TINY = ["--config", "fcos/fcos_tiny_shapes", "--device", "cpu", "--shape", "64", "96"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gn_vs_bn

    return gn_vs_bn


def test_the_models_differ_in_their_norms_only(script):
    models = script.build(script.parse(TINY))
    states = [models[name].state_dict() for name in ("GN", "BN")]
    assert not [key for key in states[0] if ".bn." in key and "head" in key]
    for key, value in states[0].items():
        for level in range(5) if ".gn." in key else [None]:
            twin = key if level is None else key.replace(".gn.", f".bn.{level}.")
            assert torch.equal(value, states[1][twin]), twin
    batches = [script.as_batch(image) for image in script.pictures(script.parse([*TINY, "--images", "3"]))]
    script.estimate_statistics(models["BN"], batches)
    model, seen = models["BN"], []
    layer = model.bbox_head.cls_convs[0].bn
    layer.register_forward_hook(lambda module, given, out: seen.append(out.clone()))  # before ReLU, which is in place
    with torch.no_grad():
        for batch in batches:
            model.bbox_head(model.extract_feat(model.data_preprocessor(batch)["inputs"]))
    finest = torch.cat([out.transpose(0, 1).flatten(1) for out in seen[::5]], 1)  # [C, points] of P3
    assert finest.mean(1).abs().max() < 0.05 and (finest.std(1) - 1).abs().max() < 0.25


def test_figures_follow_from_the_times(script, tmp_path, capsys):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((50, 70, 3), 60 * i, np.uint8))
    words = ["--img", str(tmp_path), "--images", "2", "--rounds", "3", "--warmup", "1", "--out", str(tmp_path / "out")]
    assert script.main([*TINY, *words]) == 0
    (report,) = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*-gn_vs_bn-*.json")]
    assert report["shape"] == [64, 96] and report["weights"] == "random" and list(report["rows"]) == ["GN", "BN"]
    for row in report["rows"].values():
        assert row["images"] == 6 and row["boxes"] == 0
        assert row["average_s"] == pytest.approx(row["total_s"] / 6)
        assert 0 < row["least_ms"] <= row["median_ms"] and row["cpu_average_s"] > 0
    printed = capsys.readouterr().out
    excess = report["rows"]["GN"]["median_ms"] / report["rows"]["BN"]["median_ms"] - 1
    assert f"{excess:>20.1%}" in printed
    assert (tmp_path / "out").joinpath(next((tmp_path / "out").glob("*.txt")).name).read_text() in printed
    assert [line.split()[-3:] for line in printed.splitlines() if line.startswith("published")] == [
        ["69.6", "62.8", "10.8%"],
        ["1011.2", "959.6", "5.4%"],
    ]


def test_the_order_alternates_and_the_warm_up_is_left_out(script, monkeypatch):
    order = []

    class Noted(script.Clock):
        def run(self, batch, count=True):
            order.append((self.model, count))
            self.wall.append(1.0)
            self.cpu.append(1.0)

    monkeypatch.setattr(script, "Clock", Noted)
    arguments = script.parse(["--rounds", "2", "--warmup", "1"])
    script.measure({"GN": "g", "BN": "b"}, [{}], script.device.ACCELERATORS["cpu"], arguments)
    assert order == [("g", False), ("b", False), ("g", True), ("b", True), ("b", True), ("g", True)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--img", "absent"], "there is no such file or folder"),
        (["--config", "fcos/fcos_r50_caffe_fpn_bn-head_4x4_1x_coco"], "has no GroupNorm"),
        (["--device", "abacus"], "unknown device"),
    ],
)
def test_what_cannot_be_compared(script, capsys, words, message):
    assert script.main([*TINY, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "100", "128"], "multiples of 32"),
        (["--rounds", "0"], "start at 1"),
        (["--images", "0"], "start at 1"),
    ],
)
def test_arguments_are_checked(script, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        script.main(words)
    assert stop.value.code == 2 and message in capsys.readouterr().err
