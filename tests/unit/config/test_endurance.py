"""Deadlines and intervals: what is accepted, and what it means."""

import pytest

from fcos_train.config.endurance import seconds
from fcos_train.config.options import TrainOptions
from mmcv_overrides.errors import UserError


@pytest.mark.parametrize(
    ("text", "found"),
    [("90", 90), (15, 15), (2.5, 2.5), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86400)]
    + [(text, None) for text in ("", "m", "-5", "ten", "nan", "1e3", "10 m", "10min", "inf")],
)
def test_seconds(text, found) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dist_timeout": "ten"}, "--dist-timeout ten: give seconds, or a time such as 90s, 10m or 1h"),
        ({"dist_timeout": "0"}, "--dist-timeout 0: give seconds"),
        ({"dist_timeout": "-5"}, "--dist-timeout -5: give seconds"),
        ({"dist_timeout": "400d"}, "--dist-timeout 400d: .* at most a year"),
        ({"rendezvous_timeout": "soon"}, "--rendezvous-timeout soon: give seconds"),
        ({"checkpoint_every": "0"}, "--checkpoint-every 0: give a number of iterations such as 200, or a time"),
        ({"checkpoint_every": "1.5"}, "--checkpoint-every 1.5: give a number of iterations"),
        ({"checkpoint_every": "0m"}, "--checkpoint-every 0m: give a number of iterations"),
        ({"max_restarts": -1, "devices": 2}, "--max-restarts -1: must be at least 0"),
        ({"max_restarts": 1}, "--max-restarts needs --devices N"),
        ({"resume": "if-some"}, "--resume if-some: no such file"),
    ],
)
def test_faults_are_found_at_the_start(given, message) -> None:
    with pytest.raises(UserError, match=message):
        TrainOptions(config="c.py", **given)


def test_what_reaches_the_ranks() -> None:
    options = TrainOptions(config="c.py", dist_timeout="10m", rendezvous_timeout=30, max_restarts=2, devices=2)
    assert options.deadlines() == {"FCOS_DIST_TIMEOUT": "600.0", "FCOS_RENDEZVOUS_TIMEOUT": "30.0"}
    assert TrainOptions(config="c.py", checkpoint_every="10m", resume="if-any").deadlines() == {}
