"""What a checkpoint must have to be resumed from: one message for each thing that it lacks."""

import copy

import pytest

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint.resume import check_resumable
from mmcv_overrides.errors import UserError

WHOLE = {
    "meta": {"epoch": 1, "iter": 6, "config": "gpu_ids = [0]"},
    "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
    "optimizer": {"state": {}, "param_groups": []},
}

FAULTS = {
    "meta": ({}, "epoch and iter in its meta"),
    "meta.epoch": ("1", "epoch in its meta"),
    "meta.iter": (-1, "iter in its meta"),
    "message_hub": (None, "message_hub is NoneType"),
    "message_hub.log_scalars": ([], "message_hub is dict without log_scalars"),
    "optimizer": ([1], "optimizer is list"),
    "meta.config": (b"x", "is not text"),
}


@pytest.mark.parametrize("place", FAULTS)
def test_what_is_lacking_is_named(place):
    value, says = FAULTS[place]
    found = copy.deepcopy(WHOLE)
    check_resumable(found, "a.pth")
    outer, _, inner = place.partition(".")
    if inner:
        found[outer][inner] = value
    else:
        found[outer] = value
    with pytest.raises(UserError, match=rf"a\.pth.*{says}.*load_from"):
        check_resumable(found, "a.pth")


def test_a_program_in_the_configuration_needs_trust():
    found = WHOLE | {"meta": WHOLE["meta"] | {"config": "import os"}}
    with pytest.raises(UserError, match="line 1 of the configuration in it is more than a value.*trust_checkpoints"):
        check_resumable(found, "a.pth")
    with checkpoint.trust_checkpoints():
        check_resumable(found, "a.pth")
