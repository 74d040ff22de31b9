"""Control characters: escaped where text from files is shown, refused in class names."""

import logging

import pytest

from fcos_train.cli.main import main
from fcos_train.engine.runner import PlainFormatter
from mmcv_overrides.checkpoint.weights import MatchReport
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable, printable_lines, require_names

pytestmark = pytest.mark.hostile

FORGED = "x\n2026-01-01 12:00:00,000 - mmdet - INFO - Epoch(val) [1][8]\tbbox_mAP: 0.9990"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("Fußgänger 行人 عربي किताब\u200c می\u200dشود 🚲", None),
        ("a b'\"\\{}%s", None),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m\x85\x7f\0", r"\x9b31m\x85\x7f\x00"),
        ("a\u202egpj.exe\u2066b\u2069", r"a\u202egpj.exe\u2066b\u2069"),
        ("a\u200bb\ufeff\u2028\u2029", r"a\u200bb\ufeff\u2028\u2029"),
        ("\ud800\udcff", r"\ud800\udcff"),
    ],
)
def test_controls_are_escaped_and_nothing_else(text, shown):
    shown = text if shown is None else shown
    assert printable(text) == shown and printable(printable(text)) == shown
    printable(text).encode()
    assert printable_lines(text) == shown.replace(r"\n", "\n").replace(r"\t", "\t")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            FORGED,
            r"f.json: the class name 'x\n2026-01-01 12:00:00,000 - mmdet - INFO - Epoch(val) [1][8]\tbbox_mAP: 0.9990'",
        ),
        ("\x1b[2Jcat", r"'\x1b[2Jcat' has control characters (shown escaped)"),
        ("tac\u202e", r"'tac\u202e' has control characters"),
        ("c" * 201, "f.json: a class name has 201 characters, more than 200: " + "c" * 40 + "..."),
        (7, "f.json: the class name 7 is not text"),
        (None, "the class name None is not text"),
        (["\n"], r"the class name ['\n'] is not text"),
    ],
)
def test_class_names_are_one_visible_line(name, message):
    with pytest.raises(UserError) as caught:
        require_names(["cat", name], "f.json")
    assert message in str(caught.value) and str(caught.value).isprintable()
    require_names(["cat", "traffic light", "行人", "c" * 200], "f.json")


def test_the_log_steers_no_terminal_and_keeps_its_tables():
    record = logging.LogRecord("mmdet", logging.INFO, "f.py", 1, "a\x1b[31m\r|\n+--+\n| %s |", ("b\x9b\u202e",), None)
    line = PlainFormatter().format(record)
    assert line.endswith(" - mmdet - INFO - a\\x1b[31m\\r|\n+--+\n| b\\x9b\\u202e |")
    tabbed = logging.LogRecord("mmdet", logging.INFO, "f.py", 1, "Epoch [1][50/7330]\tlr: 1.250e-03", (), None)
    assert PlainFormatter().format(tabbed).endswith("Epoch [1][50/7330]\tlr: 1.250e-03")


def test_an_error_message_is_printable_and_its_other_lines_are_indented(monkeypatch, capsys):
    def fail(_):
        raise UserError(f"no config '{FORGED}\x1b[31m'\n  indented\n\nend")

    monkeypatch.setattr("fcos_train.cli.main._run", fail)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == (
        "error: no config 'x\n"
        "  2026-01-01 12:00:00,000 - mmdet - INFO - Epoch(val) [1][8]\tbbox_mAP: 0.9990\\x1b[31m'\n"
        "  indented\n\n  end\n"
    )


def test_keys_of_a_checkpoint_are_one_line():
    report = MatchReport(2, ("a",), ("b",), (FORGED, "\x1b[31m"), (), (), ("c\nd",))
    assert report.summary().isprintable() and r"unexpected: x\n2026-01-01" in report.summary()
