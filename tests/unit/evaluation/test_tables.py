"""The table of an evaluation on a terminal."""

import io
import math

from rich.console import Console

from fcos_train.evaluation.tables import MOST_ROWS, evaluation_table


def printed(*args) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(evaluation_table(*args))
    return console.file.getvalue().splitlines()


def cells(line) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")]


def of_class(ap, boxes=10) -> dict[str, float]:
    return {"boxes": boxes, "AP": ap, "AP_50": 0.5, "AP_75": 0.25, "AP_s": math.nan, "AP_m": 0.1, "AP_l": 1.0}


def test_all_classes_first_and_the_recalls_below():
    metrics = {"bbox_mAP": 0.12345, "bbox_mAP_50": 0.5, "bbox_mAP_75": 0.25, "bbox_mAP_s": -1.0, "bbox_mAP_m": 0.1}
    lines = printed({**metrics, "bbox_mAP_l": 1.0, "bbox_AR_100": 0.75}, {"a [b]": of_class(0.1234)})
    assert lines[-1].strip() == "AR100 0.7500"
    assert cells(lines[1]) == ["class", "boxes", "AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert cells(lines[3]) == ["all", "10", "0.1235", "0.5000", "0.2500", "-", "0.1000", "1.0000"]
    assert cells(lines[5]) == ["a [b]", "10", "0.123", "0.500", "0.250", "-", "0.100", "1.000"]


def test_of_many_classes_the_weakest():
    scores = {f"class{i}": of_class(i / 100 if i else math.nan) for i in range(80)}
    lines = printed({}, scores)
    named = [cells(line)[0] for line in lines if cells(line)[0].startswith("class") and "boxes" not in line]
    assert named == [f"class{i}" for i in range(1, MOST_ROWS + 1)]
    assert lines[-1].strip() == "the 20 weakest of 80 classes; all are in the log"


def test_another_metric_is_listed_by_name():
    lines = printed({"pascal_voc/AP50": 0.5, "note": "text"}, {})
    assert [cells(line) for line in lines[3:5]] == [["pascal_voc/AP50", "0.5000"], ["note", "text"]]
