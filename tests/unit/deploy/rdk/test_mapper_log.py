"""What the vendor's compiler prints, as recorded from hb_mapper 1.24.3, in numbers."""

import pytest

from fcos_train.deploy.rdk.mapper_log import (
    Predicted,
    plain_lines,
    predicted_by,
    predicted_in,
    read_mapper_log,
)
from fcos_train.deploy.rdk.table import as_record, report_lines
from mmcv_overrides.errors import UserError

RULE = "=" * 120
LOG = f"""\
2026-11-27 22:00:18,427 \x1b[92mINFO\x1b[0m hbdk version 3.49.15
2026-11-27 22:00:18,427 \x1b[92mINFO\x1b[0m horizon_nn version 1.1.0
2026-11-27 22:00:18,440 \x1b[92mINFO\x1b[0m hb_mapper version 1.24.3
calibration in progress:   0%|          | 0/6 [00:00<?, ?it/s]\rcalibration in progress: 100%|####| 6/6 [01:05<00:00]
[========-      ]  17%\r[===============] 100%
2026-11-27 22:04:37,884 \x1b[92mINFO\x1b[0m FPS=124.55, latency = 8028.9 us, DDR = 14955952 bytes   (see g.html)
2026-11-27 22:04:47,505 \x1b[92mINFO\x1b[0m The main quantized node information:
{RULE}
Node                                ON   Subgraph  Type                       Cosine Similarity  Threshold    DataType
{"-" * 120}
HZ_PREPROCESS_FOR_input_image          BPU  id(0)     HzSQuantizedPreprocess     0.999972           127.0        int8
backbone/conv1/Conv                    BPU  id(0)     HzSQuantizedConv           0.999963           238.738      int8
...reg_convs.0/gn_4/InstanceNormalization  BPU  id(0)  HzSElementwiseMul         0.992107           1.71945      int8
bbox_head/relu/Relu                    CPU  --        Relu                       0.991000           --           float
2026-11-27 22:04:47,506 \x1b[92mINFO\x1b[0m The quantized model output:
===============================================================================
Output        Cosine Similarity  L1 Distance  L2 Distance  Chebyshev Distance
-------------------------------------------------------------------------------
P3logits      0.998208           0.177205     0.008205     0.717360
P3bbox_reg    0.999701           0.048665     0.002230     0.226867
P3centerness  0.984066           0.154449     0.014396     0.541949
2026-11-27 22:04:47,568 \x1b[92mINFO\x1b[0m End to Horizon NN Model Convert.
2026-11-27 22:05:00,440 \x1b[92mINFO\x1b[0m Node 'bbox_head/conv_cls/Conv:0_HzDequantize' is removed
2026-11-27 22:05:00,489 \x1b[92mINFO\x1b[0m modified model saved as c_x5.bin
"""
CHECKER = """\
Node                    ON   Subgraph  Type                 Cosine Similarity  Threshold  DataType
--------------------------------------------------------------------------------------------------
backbone/conv1/Conv     BPU  id(0)     HzSQuantizedConv     --                 1.0        int8
backbone/pool/MaxPool   BPU  id(0)     HzQuantizedMaxPool   --                 1.0        int8
"""


def test_colours_and_progress_bars_are_gone():
    lines = plain_lines(LOG)
    assert lines[0] == "2026-11-27 22:00:18,427 INFO hbdk version 3.49.15"
    assert lines[3:5] == ["calibration in progress: 100%|####| 6/6 [01:05<00:00]", "[===============] 100%"]


def test_speed_nodes_outputs_and_versions():
    report = read_mapper_log(plain_lines(LOG))
    assert report.predicted == Predicted(124.55, 8.0289, 14955952)
    assert [(node.on, node.kind, node.cosine, node.dtype) for node in report.nodes] == [
        ("BPU", "HzSQuantizedPreprocess", 0.999972, "int8"),
        ("BPU", "HzSQuantizedConv", 0.999963, "int8"),
        ("BPU", "HzSElementwiseMul", 0.992107, "int8"),
        ("CPU", "Relu", 0.991, "float"),
    ]
    assert [(row.name, row.cosine, row.chebyshev) for row in report.outputs] == [
        ("P3logits", 0.998208, 0.71736), ("P3bbox_reg", 0.999701, 0.226867), ("P3centerness", 0.984066, 0.541949)
    ]  # fmt: skip
    assert report.removed == ("bbox_head/conv_cls/Conv:0_HzDequantize",)
    assert report.versions == {"hbdk": "3.49.15", "horizon_nn": "1.1.0", "hb_mapper": "1.24.3"}


def test_the_checker_gives_no_similarity():
    report = read_mapper_log(plain_lines(CHECKER))
    assert [node.cosine for node in report.nodes] == [None, None] and report.predicted is None


def test_subgraphs_run_one_after_another():
    lines = ["FPS=100.0, latency = 10000.0 us, DDR = 5 bytes", "FPS=50.0, latency = 20000.0 us, DDR = 7 bytes"]
    both = predicted_by(lines)
    assert (both.latency, both.ddr) == (30.0, 12) and both.fps == pytest.approx(33.3333, abs=1e-4)


def test_the_summary_of_a_subgraph():
    summary = {"FPS": 348.34, "DDR bytes per frame": 4571136, "BPU OPs per frame (effective)": 4998201344}
    found = predicted_in(summary)
    assert (found.fps, found.ddr, found.operations) == (348.34, 4571136, 4998201344)
    assert found.latency == pytest.approx(2.8708, abs=1e-4)
    with pytest.raises(UserError, match="lacks 'DDR bytes per frame'"):
        predicted_in({key: value for key, value in summary.items() if not key.startswith("DDR")})


def test_a_log_without_a_table_is_refused():
    with pytest.raises(UserError, match="no table of nodes"):
        read_mapper_log(["2026-11-27 22:00:18,427 INFO Start hb_mapper...."])


def test_the_table_shows_what_is_least_similar_and_what_is_on_the_cpu():
    record = {
        "board": "RDK X5",
        "march": "bayes-e",
        "optimize_level": "O0",
        **as_record(read_mapper_log(plain_lines(LOG))),
    }
    lines = report_lines(record)
    assert " ".join(lines[1].split()) == "predicted, 1 core 124.55 FPS 8.029 ms 14.96 MB of memory traffic an image"
    assert "  P3centerness  cosine 0.984066  largest difference 0.5419" in lines
    assert "nodes: 3 on the BPU, 1 on the CPU; the least similar ones and up to 10 on the CPU:" in lines
    assert "note: the predicted speed leaves out 1 nodes on the CPU" in lines
    least = [line.split()[0] for line in lines[-4:]]
    assert least[:2] == ["bbox_head/relu/Relu", "...reg_convs.0/gn_4/InstanceNormalization"]
    every = report_lines(record, all_nodes=True)
    assert [line.split()[0] for line in every[-4:]][0] == "HZ_PREPROCESS_FOR_input_image"
