"""What a checkpoint must have to be resumed from: one message for each thing that it lacks."""

import copy
from contextlib import nullcontext

import pytest
import torch

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint.resume import check_resumable
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer_state import check_same_optimizer

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


WITHOUT_STATE = {
    "weights alone": ({"layer.weight": torch.ones(1)}, "epoch and iter in its meta"),
    "mmdet 2.x": (
        {"meta": {"epoch": 12, "iter": 9, "mmdet_version": "2.28.0"}, "state_dict": {}, "optimizer": {}},
        "is of mmdet 2.28.0: no training state for mmengine",
    ),
    "mmcv 1.x": ({"meta": {"epoch": 1, "iter": 9, "mmcv_version": "1.2.7"}, "state_dict": {}}, "is of mmcv 1.2.7"),
    "published": ({"meta": {"epoch": 12, "iter": 9}, "state_dict": {}}, r"no training state \(no message_hub\)"),
}


@pytest.mark.parametrize("kind", WITHOUT_STATE)
def test_a_file_of_weights_is_named_and_load_from_is_offered(kind):
    found, says = WITHOUT_STATE[kind]
    with pytest.raises(UserError, match=rf"a\.pth.*{says}.*Load only its weights") as caught:
        check_resumable(found, "a.pth")
    assert caught.value.setting == "load_from"


def state_of(kind, **settings):
    return kind([torch.nn.Parameter(torch.ones(2))], lr=0.1, **settings).state_dict()


@pytest.mark.parametrize(
    "saved, now, says",
    [
        (torch.optim.AdamW, torch.optim.SGD, "written with Adam or AdamW, and this config has SGD"),
        (torch.optim.SGD, torch.optim.AdamW, "written with SGD, and this config has AdamW"),
        (torch.optim.RMSprop, torch.optim.Adam, "written with RMSprop, and this config has Adam"),
        (torch.optim.Rprop, torch.optim.SGD, "written with Rprop, and this config has SGD"),
        (torch.optim.Adam, torch.optim.AdamW, "written with Adam, and this config has AdamW"),
        (torch.optim.SGD, torch.optim.SGD, None),
    ],
)
def test_the_state_of_another_kind_of_optimizer(saved, now, says):
    """Told by the name of its class if the checkpoint has it, else by its settings."""
    state, optimizer = state_of(saved), now([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    for kind in (None, saved.__name__):
        with pytest.raises(UserError, match=now.__name__) if says else nullcontext() as caught:
            check_same_optimizer(state, optimizer, kind)
        assert says is None or kind is not None or says in str(caught.value)


def test_the_state_of_an_older_torch_or_another_implementation_is_of_the_same_kind():
    state = state_of(torch.optim.SGD, momentum=0.9)
    for key in ("maximize", "foreach", "differentiable", "fused"):
        state["param_groups"][0].pop(key)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    check_same_optimizer(state, optimizer, None)
    check_same_optimizer(state, optimizer, "NpuFusedSGD")
    check_same_optimizer({"param_groups": []}, optimizer, None)
