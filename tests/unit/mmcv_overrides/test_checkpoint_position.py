"""A resume continues at the same image whatever a step holds, and checkpoints between those of the config."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook

from mmcv_overrides.checkpoint.every import next_look
from mmcv_overrides.checkpoint.position import Epochs, move, move_schedulers
from tests.support.toy_runner import checkpoint_names, toy_runner

LOOP = dict(type="EpochBasedTrainLoop")


def saved(epoch: int, iteration: int, length: int, images: int, batch: int) -> dict:
    position = Epochs(length, images, batch).position(epoch, iteration)
    return {"epoch": epoch, "iter": iteration, "position": position}


@pytest.mark.parametrize(
    ("meta", "now", "found"),
    [
        # 12 images in steps of 4: two epochs are 6 steps, which are 12 in steps of 2, and 2 in steps of 12
        (saved(2, 6, 3, 12, 4), Epochs(6, 12, 2), (2, 12)),
        (saved(2, 6, 3, 12, 4), Epochs(1, 12, 12), (2, 2)),
        # after 8 of 12 images of epoch 3
        (saved(2, 8, 3, 12, 4), Epochs(6, 12, 2), (2, 16)),
        # 4 of 12 images are no whole step of 8: they are seen again
        (saved(0, 1, 3, 12, 4), Epochs(2, 12, 8), (0, 0)),
        # the last step of an epoch of 10 images had only 2; saved by iteration, at the end of it
        (saved(0, 3, 3, 10, 4), Epochs(5, 10, 2), (0, 5)),
        # the data set has doubled: half of the epoch stays half of it
        (saved(1, 6, 4, 16, 4), Epochs(8, 32, 4), (1, 12)),
        (saved(2, 8, 3, 12, 4), Epochs(3, 12, 4), None),
        # older checkpoints: at the end of an epoch only
        ({"epoch": 2, "iter": 6}, Epochs(6, 12, 2), (2, 12)),
        ({"epoch": 2, "iter": 7}, Epochs(6, 12, 2), None),
        ({"epoch": 0, "iter": 2}, Epochs(6, 12, 2), None),
        ({"epoch": 2, "iter": 6, "position": {"images": "all"}}, Epochs(6, 12, 2), (2, 12)),
    ],
)
def test_where_a_run_continues(meta, now, found) -> None:
    moved = move(meta, now)
    assert (moved and (moved.epoch, moved.iteration)) == found


def test_schedulers_that_count_the_steps_of_epochs_move_along_and_others_stay() -> None:
    states = [{"end": 36, "last_step": 6, "_global_step": 6}, {"end": 500, "last_step": 6, "_global_step": 6}]
    built = [SimpleNamespace(end=72, by_epoch=False), SimpleNamespace(end=500, by_epoch=False)]
    move_schedulers(states, built, Fraction(2))
    assert states[0] == {"end": 72, "last_step": 12, "_global_step": 12}
    assert states[1] == {"end": 500, "last_step": 6, "_global_step": 6}


class Seen(Hook):
    """The images of a run, as the model got them."""

    def __init__(self) -> None:
        self.batches: list[torch.Tensor] = []
        self.rates: list[float] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.batches.append(data_batch["x"].clone())
        self.rates.append(runner.optim_wrapper.param_groups[0]["lr"])

    @property
    def images(self) -> torch.Tensor:
        return torch.cat(self.batches)


def run(folder, batch: int, epochs: int, rate: float = 0.05, resume: bool = False, hooks=(), max_iters=None) -> Seen:
    seen = Seen()
    loop = LOOP if max_iters is None else {**LOOP, "max_iters": max_iters}
    runner = toy_runner(folder, epochs=epochs, record=seen, loop=loop, resume=resume)
    runner._train_dataloader["batch_size"] = batch
    runner.optim_wrapper["optimizer"]["lr"] = rate
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return seen


def test_half_the_batch_continues_with_the_next_image_at_its_own_learning_rate(tmp_path) -> None:
    """8 images; 5 steps of 2 end after 2 images of epoch 2, the other 6 of it and 2 epochs of 8 are left."""
    whole = run(tmp_path / "whole", 2, 4)
    first = run(tmp_path / "parts", 2, 4, max_iters=5)
    rest = run(tmp_path / "parts", 1, 4, rate=0.025, resume=True)
    assert len(rest.batches) == 6 + 2 * 8
    assert torch.equal(torch.cat([first.images, rest.images]), whole.images)
    assert first.rates[0] == 0.05 and rest.rates[0] == pytest.approx(0.025)
    assert rest.rates[-1] == pytest.approx(0.0125)  # the milestone after epoch 2 holds
    assert "iter_5.pth" in checkpoint_names(tmp_path / "parts")


def test_a_larger_batch_after_a_smaller_one_is_found_again(tmp_path) -> None:
    """16 steps of 1 image, then 2 of 4: the second run has fewer steps and is the newer one nevertheless."""
    run(tmp_path / "a", 1, 2)
    run(tmp_path / "a", 4, 3, resume=True)
    third = run(tmp_path / "a", 4, 4, resume=True)
    assert len(third.batches) == 2


def test_checkpoints_after_every_third_iteration_of_which_two_are_kept(tmp_path) -> None:
    run(tmp_path / "a", 2, 3, hooks=[dict(type="ExtraCheckpointHook", iterations=3)])
    names = checkpoint_names(tmp_path / "a")
    # 12 steps; the third, sixth and ninth; after the twelfth the config saves epoch 3 itself
    assert names == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "iter_6.pth", "iter_9.pth", "latest.pth"]


def test_a_resumed_run_removes_the_checkpoint_between_that_it_continues(tmp_path) -> None:
    often = [dict(type="ExtraCheckpointHook", iterations=3)]
    run(tmp_path / "a", 2, 4, hooks=often, max_iters=3)
    run(tmp_path / "a", 2, 4, hooks=often, resume=True)
    # 16 steps; after the twelfth, the end of epoch 3, the config saves
    names = [name for name in checkpoint_names(tmp_path / "a") if name.startswith("iter_")]
    assert names == ["iter_15.pth", "iter_9.pth"]


@pytest.mark.parametrize(
    ("steps", "spent", "interval", "found"),
    [
        (1, 2.0, 600, 100 + 149),  # 598 s are left, 299 steps of 2 s: half of them
        (250, 500.0, 600, 100 + 25),
        (299, 598.0, 600, 101),
        (300, 600.0, 600, None),
        (299, 599.5, 600, None),  # nearer than the end of the next step
        (3, 900.0, 600, None),
    ],
)
def test_when_the_ranks_look_at_the_clock_next(steps, spent, interval, found) -> None:
    assert next_look(100, steps, spent, interval) == found
