"""The command for atc and aoe, and the AIPP file."""

import re
from pathlib import Path

import pytest

from fcos_train.cli.main import main

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A folder with two models, and a PATH without CANN."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name, shape in (("fixed", (1, 3, 800, 1216)), ("open", ("batch", 3, "height", "width"))):
        graph = helper.make_graph(
            [
                helper.make_node("Identity", ["input"], ["dets"], name="boxes/Identity"),
                helper.make_node("Identity", ["input"], ["labels"], name="classes/Identity"),
            ],
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("dets", "labels")],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), f"{name}.onnx")
    return tmp_path


FIXED = (
    "atc --framework=5 --model=fixed.onnx --output=fsaf_bs4 --input_format=NCHW "
    "'--input_shape=input:{shape}' '--out_nodes=dets;labels' --log=error --soc_version=Ascend310P3"
)


def test_command_is_printed_and_kept_without_cann(work, capsys):
    words = ["--model", "fixed.onnx", "--output", "fsaf_bs4.om", "--soc-version", "Ascend310P3"]
    assert main(["ascend", "om", *words]) == 2  # nothing was converted
    line, told = "".join(capsys.readouterr()).splitlines()
    # shlex quotes only what a shell would take apart
    assert line.replace("'", "") == FIXED.format(shape="1,3,800,1216").replace("'", "")
    assert "'--out_nodes=dets;labels'" in line
    assert told.startswith("error: nothing was converted: atc is not on PATH") and "fsaf_bs4.atc.sh" in told
    assert (work / "fsaf_bs4.atc.sh").read_text() == f"#!/bin/sh\n{line}\n"
    assert main(["ascend", "om", *words, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [line, "the command is in fsaf_bs4.atc.sh"]


def test_dynamic_sides_out_nodes_and_aoe(work, capsys):
    size = ["--batch-size", "4", "--input-height", "640", "--input-width", "768"]
    words = [
        "--model",
        "open.onnx",
        "--aoe",
        "--out-nodes",
        "boxes/Identity:0;labels",
        "--extra=--keep_dtype=k.cfg",
        "--dry-run",
    ]
    assert main(["ascend", "om", *words, *size]) == 0
    assert capsys.readouterr().out.splitlines()[0].replace("'", "") == (
        "aoe --framework=5 --model=open.onnx --output=open --job_type=2 --input_format=NCHW "
        "--input_shape=input:4,3,640,768 --out_nodes=boxes/Identity:0;labels --log=error --keep_dtype=k.cfg"
    )
    assert (work / "open.aoe.sh").is_file()


def unsuitable(work: Path) -> None:
    """Write nms.onnx: a graph of --end nms with its opset."""
    model = onnx.load(work / "fixed.onnx")
    model.graph.node.append(helper.make_node("NonMaxSuppression", ["dets", "labels"], ["kept"], name="nms"))
    model.opset_import[0].version = 17
    onnx.save(model, work / "nms.onnx")


def test_unchecked_hands_any_graph_to_the_converter(work, capsys):
    unsuitable(work)
    words = ["--model", "nms.onnx", "--out-nodes", "other:0", "--unchecked", "--dry-run"]
    assert main(["ascend", "om", *words]) == 0
    assert "--out_nodes=other:0" in capsys.readouterr().out


def test_atc_runs_where_it_is_installed(work, capsys):
    tool = work / "bin" / "atc"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@" > said\n')
    tool.chmod(0o755)
    assert main(["ascend", "om", "--model", "fixed.onnx"]) == 0
    assert "--input_shape=input:1,3,800,1216 --out_nodes=dets;labels" in (work / "said").read_text()
    assert "fixed.om is written" in capsys.readouterr().out
    tool.write_text("#!/bin/sh\nexit 3\n")
    assert main(["ascend", "om", "--model", "fixed.onnx"]) == 2
    assert "atc ended with status 3" in capsys.readouterr().err


def test_aipp_file_has_the_normalisation_of_the_model(work, capsys):
    assert main(["ascend", "om", "--model", "fixed.onnx", "--aipp", "--rule", "fsaf", "--dry-run"]) == 0
    assert "--insert_op_conf=fixed.aipp.cfg" in capsys.readouterr().out
    text = (work / "fixed.aipp.cfg").read_text()
    values = dict(re.findall(r"(\w+) : (\S+)", text))
    assert text.startswith("aipp_op {\n") and text.endswith("}\n")
    assert (values["aipp_mode"], values["input_format"], values["csc_switch"]) == ("static", "RGB888_U8", "false")
    assert (values["src_image_size_w"], values["src_image_size_h"]) == ("1216", "800")
    for channel, (mean, std) in enumerate(((123.675, 58.395), (116.28, 57.12), (103.53, 57.375))):
        whole, rest = int(values[f"mean_chn_{channel}"]), float(values[f"min_chn_{channel}"])
        assert whole + rest == pytest.approx(mean, abs=1e-4) and 0 <= rest < 1
        assert float(values[f"var_reci_chn_{channel}"]) == pytest.approx(1 / std, rel=1e-6)


@pytest.mark.parametrize(
    "words,part",
    [
        (["--model", "absent.onnx"], "absent.onnx: no such file"),
        (["--model", "text.onnx"], "text.onnx is not an ONNX file"),
        (["--model", "open.onnx"], "give --input-height"),
        (
            ["--model", "fixed.onnx", "--input-width", "1333"],
            "has a fixed size of 1216, not 1333 as --input-width says",
        ),
        (
            ["--model", "fixed.onnx", "--batch-size", "8"],
            "fixed size of 1, not 8 as --batch-size says; export it with --batch 8, or once with --dynamic batch",
        ),
        (
            ["--model", "fixed.onnx", "--out-nodes", "Concat_1427:0;dets;boxes/Identity:1"],
            "fixed.onnx has no Concat_1427:0, boxes/Identity:1; its outputs are dets;labels. Leave --out-nodes out",
        ),
        (
            ["--model", "nms.onnx"],
            "it contains NonMaxSuppression, as --end nms writes it for onnxruntime; its opset is 17, and CANN's parser "
            "takes 8 to 16. Export it with --end ascend (opset 11); --unchecked hands it to the converter as it is",
        ),
        (["--model", "fixed.onnx", "--aipp", "absent.cfg"], "absent.cfg: no such file"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(work, capsys, words, part):
    (work / "text.onnx").write_text("no model at all")
    unsuitable(work)
    assert main(["ascend", "om", *words]) == 2
    assert part in capsys.readouterr().err and not list(work.glob("*.sh"))
