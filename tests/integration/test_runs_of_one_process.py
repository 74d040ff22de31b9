"""Several runs of one process: each gives what it gives in a process of its own, and leaves the process as it was."""

import multiprocessing
import os
import random

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope

from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.engine.run import evaluate, train
from fcos_train.engine.runner import DetectionRunner
from mmcv_overrides import device
from mmcv_overrides.checkpoint.reading import trusted
from mmcv_overrides.errors import UserError
from tests.support.commands import ok, run

FLAGS = dict(device="cpu", pretrained="none", seed=3, max_iters=4, batch_size=4, workers=1, opt_level="O1", check=False)
WORDS = [
    "--device=cpu", "--pretrained=none", "--seed=3", "--max-iters=4", "--batch-size=4", "--workers=1",
    "--opt-level=O1", "--no-check",
]  # fmt: skip


def state() -> dict:
    """What a run could leave behind."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "switches": (torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
        "environment": dict(os.environ),
        "start": multiprocessing.get_start_method(allow_none=True),
        "threads": (cv2.getNumThreads(), torch.get_num_threads()),
        "scope": DefaultScope.get_current_instance().scope_name,
        "scopes": list(DefaultScope._instance_dict),
        "loggers": list(MMLogger._instance_dict),
        "hubs": list(MessageHub._instance_dict),
        "device": device._current,
        "trusted": trusted(),
        "children": multiprocessing.active_children(),
        "group": torch.distributed.is_initialized(),
    }


def test_two_runs_of_one_process_equal_two_processes(shapes, tmp_path) -> None:
    before = state()
    config = "fcos/fcos_tiny_shapes"
    other = dict(FLAGS, seed=5, opt_level="O0", step_mode="mmdet", deterministic=True, workers=0, npu_ids=0)
    train(TrainOptions(config, str(shapes), str(tmp_path / "other"), trust_checkpoint=True, **other))
    assert state() == before
    with pytest.raises(UserError, match="no_such_key"):
        train(TrainOptions(config, str(shapes), cfg_options={"model.no_such_key": 1}, **FLAGS))
    assert state() == before
    train(TrainOptions(config, str(shapes), str(tmp_path / "mine"), **FLAGS))
    here = evaluate(EvalOptions(None, str(tmp_path / "mine" / "latest.pth"), device="cpu", workers=2))
    assert state() == before  # its loader processes have ended, they do not wait for the garbage collector

    ok(run("train", config, "--data-path", shapes, "--work-dir", tmp_path / "alone", *WORDS))
    ours, theirs = (
        torch.load(tmp_path / name / "latest.pth", weights_only=True)["state_dict"] for name in ("mine", "alone")
    )
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert evaluate(EvalOptions(None, str(tmp_path / "alone" / "latest.pth"), device="cpu", workers=0)) == here


def test_a_seed_that_is_not_given_does_not_come_from_numpy() -> None:
    """The second unseeded run of a program that seeds NumPy is another run."""
    seeds = []
    for _ in range(2):
        np.random.seed(0)
        runner = DetectionRunner.__new__(DetectionRunner)
        runner.set_randomness(None)
        seeds.append(runner._seed)
    assert seeds[0] != seeds[1]
    runner.set_randomness(7)
    assert runner._seed == 7
