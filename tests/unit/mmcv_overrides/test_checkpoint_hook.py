"""The hook in a real mmengine runner: exact resume, keep-N, best, what must never be deleted."""

import logging
import os

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from mmcv_overrides import checkpoint, seams
from mmcv_overrides.errors import UserError
from tests.support.toy_runner import Record, Toy, checkpoint_names, toy_runner


@pytest.fixture(scope="module", autouse=True)
def _overrides():
    seams.apply(checkpoint.OVERRIDES)


@pytest.mark.parametrize("scores", [None, [0.1, 0.2, 0.3, 0.4]])
def test_two_and_two_epochs_are_four_bit_for_bit(tmp_path, scores, caplog):
    whole, first, second = Record(), Record(stop=2), Record()
    best = dict(save_best="mAP") if scores else {}
    toy_runner(tmp_path / "whole", scores=scores, record=whole, **best).train()
    toy_runner(tmp_path / "parts", scores=scores, record=first, **best).train()
    caplog.clear()
    resumed = toy_runner(tmp_path / "parts", scores=scores and scores[2:], record=second, resume=True, **best)
    resumed.train()
    assert len(whole.losses) == 16 and first.losses + second.losses == whole.losses
    a, b = (checkpoint.load(tmp_path / n / "epoch_4.pth") for n in ("whole", "parts"))
    assert torch.equal(a["state_dict"]["conv_cls.weight"], b["state_dict"]["conv_cls.weight"])
    assert a["meta"]["iter"] == b["meta"]["iter"] == 16 and a["meta"]["epoch"] == 4
    assert resumed.optim_wrapper.param_groups[0]["lr"] == pytest.approx(0.025)
    assert not [r for r in caplog.records if "metainfo" in r.getMessage()]  # palette and classes came back the same


def test_validation_does_not_change_the_training(tmp_path):
    without, with_ = Record(), Record()
    toy_runner(tmp_path / "a", epochs=3, record=without).train()
    toy_runner(tmp_path / "b", epochs=3, record=with_, scores=[0.1, 0.2, 0.3]).train()
    assert without.losses == with_.losses


def test_message_hub_history_comes_back_as_history(tmp_path):
    runner = toy_runner(tmp_path / "a", epochs=1)
    for value in (0.5, 0.25, 0.125):
        runner.message_hub.update_scalar("train/mine", value)
    runner.message_hub.update_info("mine", {"at": np.float64(0.5)})
    runner.train()
    torch.load(tmp_path / "a" / "latest.pth", weights_only=True)
    resumed = toy_runner(tmp_path / "a", epochs=2, resume=True)
    resumed.train()
    mine = resumed.message_hub.get_scalar("train/mine")
    assert type(mine) is HistoryBuffer
    assert mine.data[0].tolist() == [0.5, 0.25, 0.125] and mine.mean(2) == pytest.approx(0.1875)
    assert resumed.message_hub.get_info("mine") == {"at": 0.5}


def test_load_from_does_not_restore_random_states(tmp_path):
    toy_runner(tmp_path / "a", epochs=1).train()
    fresh, loaded = Record(), Record()
    toy_runner(tmp_path / "b", epochs=1, record=fresh).train()
    runner = toy_runner(tmp_path / "c", epochs=1, record=loaded, load_from=str(tmp_path / "a" / "epoch_1.pth"))
    runner.load_or_resume()
    runner._has_loaded = False
    state = torch.get_rng_state()
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint.load(tmp_path / "a" / "epoch_1.pth"))
    hook = next(h for h in runner.hooks if isinstance(h, checkpoint.SafeCheckpointHook))
    hook.before_train(runner)
    assert torch.equal(torch.get_rng_state(), state)


def test_keep_n_latest_and_order(tmp_path, monkeypatch):
    """The old one goes only after the new one is in place."""
    events = []
    real_save, real_remove = Runner.save_checkpoint, checkpoint.SafeCheckpointHook._remove

    def save(self, out_dir, filename, *args, **kwargs):
        real_save(self, out_dir, filename, *args, **kwargs)
        events.append(f"+{filename}")

    def remove(self, path):
        events.append(f"-{os.path.basename(path)}")
        return real_remove(self, path)

    monkeypatch.setattr(Runner, "save_checkpoint", save)
    monkeypatch.setattr(checkpoint.SafeCheckpointHook, "_remove", remove)
    toy_runner(tmp_path / "a", max_keep_ckpts=2).train()
    assert events == [
        "+epoch_1.pth",
        "+epoch_2.pth",
        "+epoch_3.pth",
        "-epoch_1.pth",
        "+epoch_4.pth",
        "-epoch_2.pth",
    ]
    assert checkpoint_names(tmp_path / "a") == ["epoch_3.pth", "epoch_4.pth", "latest.pth"]
    assert os.readlink(tmp_path / "a" / "latest.pth") == "epoch_4.pth"
    assert (tmp_path / "a" / "last_checkpoint").read_text() == str(tmp_path / "a" / "epoch_4.pth")
    assert checkpoint.load(tmp_path / "a" / "latest.pth")["message_hub"]["runtime_info"]["keep_ckpt_ids"] == [
        3,
        4,
    ]
    toy_runner(tmp_path / "a", epochs=6, max_keep_ckpts=2, resume=True).train()
    assert checkpoint_names(tmp_path / "a") == ["epoch_5.pth", "epoch_6.pth", "latest.pth"]


def test_best_is_kept_and_replaced(tmp_path):
    toy_runner(tmp_path / "a", scores=[0.2, 0.5, 0.3, 0.4], save_best="mAP", max_keep_ckpts=1).train()
    assert checkpoint_names(tmp_path / "a") == ["best_mAP_epoch_2.pth", "epoch_4.pth", "latest.pth"]
    info = checkpoint.load(tmp_path / "a" / "latest.pth")["message_hub"]["runtime_info"]
    assert info["best_score"] == 0.5 and info["best_ckpt"].endswith("best_mAP_epoch_2.pth")
    toy_runner(tmp_path / "a", epochs=5, scores=[0.6], save_best="mAP", max_keep_ckpts=1, resume=True).train()
    assert checkpoint_names(tmp_path / "a") == ["best_mAP_epoch_5.pth", "epoch_5.pth", "latest.pth"]


def test_unknown_metric_name_lists_the_valid_ones(tmp_path):
    with pytest.raises(UserError, match="save_best='bbox_mAP' .* it has: mAP"):
        toy_runner(tmp_path / "a", scores=[0.2] * 4, save_best="bbox_mAP").train()


def test_non_finite_weights_are_skipped_and_older_ones_kept(tmp_path, caplog):
    """nan from iteration 5 to 9: epoch 2 cannot be saved, nor be the best; epoch 1 stays until epoch 3 is there."""
    caplog.set_level(logging.ERROR)
    runner = toy_runner(
        tmp_path / "a",
        epochs=2,
        scores=[0.1, 0.9],
        save_best="mAP",
        max_keep_ckpts=1,
        record=Record(poison=5),
    )
    runner.train()
    assert checkpoint_names(tmp_path / "a") == ["best_mAP_epoch_1.pth", "epoch_1.pth", "latest.pth"]
    assert os.readlink(tmp_path / "a" / "latest.pth") == "epoch_1.pth"
    info = runner.message_hub.runtime_info
    assert info["keep_ckpt_ids"] == [1] and info["best_score"] == 0.1
    assert str(info["last_ckpt"]).endswith("epoch_1.pth") and info["best_ckpt"].endswith("best_mAP_epoch_1.pth")


def test_failed_write_ends_the_run_with_the_old_ones_intact(tmp_path, monkeypatch):
    from mmcv_overrides.checkpoint import writing

    real = torch.save

    def full(content, file, **kwargs):
        if content["meta"]["epoch"] < 3:
            return real(content, file, **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.torch, "save", full)
    with pytest.raises(UserError, match="No space left.*epoch_3|epoch_3.*No space left"):
        toy_runner(tmp_path / "a", max_keep_ckpts=1).train()
    assert checkpoint_names(tmp_path / "a") == ["epoch_2.pth", "latest.pth"]
    assert checkpoint.load(tmp_path / "a" / "latest.pth")["meta"]["epoch"] == 2


def test_save_by_iteration_in_mid_epoch(tmp_path):
    toy_runner(tmp_path / "a", epochs=2, by_epoch=False, interval=3).train()
    assert checkpoint_names(tmp_path / "a") == ["iter_3.pth", "iter_6.pth", "iter_8.pth", "latest.pth"]
    metas = [checkpoint.load(tmp_path / "a" / f"iter_{n}.pth")["meta"] for n in (3, 6, 8)]
    assert [(m["epoch"], m["iter"]) for m in metas] == [(0, 3), (1, 6), (1, 8)]


class Killed(Exception):
    pass


class Kill(Record):
    """Ends the run as a kill would, after an iteration."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            raise Killed


LOOP = dict(type="ResumableEpochLoop")


@pytest.fixture
def resumable_loop():
    from mmengine.registry import LOOPS

    from mmcv_overrides.loop import ResumableEpochLoop

    LOOPS.register_module(name="ResumableEpochLoop", module=ResumableEpochLoop, force=True)


@pytest.mark.parametrize(("killed", "saved"), [(7, 6), (5, 3), (4, 3), (10, 9)])
def test_killed_in_mid_epoch_goes_on_bit_for_bit(tmp_path, resumable_loop, killed, saved):
    often = dict(by_epoch=False, interval=3, loop=LOOP, epochs=3, scores=[0.1, 0.2, 0.3])
    whole, first, second = Record(), Kill(killed), Record()
    toy_runner(tmp_path / "whole", record=whole, **often).train()
    with pytest.raises(Killed):
        toy_runner(tmp_path / "parts", record=first, **often).train()
    assert os.readlink(tmp_path / "parts" / "latest.pth") == f"iter_{saved}.pth"
    toy_runner(tmp_path / "parts", record=second, resume=True, **often).train()
    assert len(whole.losses) == 12
    assert first.losses == whole.losses[:killed] and second.losses == whole.losses[saved:]


def test_max_iters_in_mid_epoch_saves_the_last_state(tmp_path, resumable_loop):
    whole, first, second = Record(), Record(), Record()
    options = dict(epochs=3, scores=[0.3, 0.9, 0.5, 0.6], save_best="mAP", max_keep_ckpts=1)
    toy_runner(tmp_path / "whole", record=whole, loop=LOOP, **{**options, "save_best": None}).train()
    toy_runner(tmp_path / "a", record=first, loop={**LOOP, "max_iters": 6}, **options).train()
    assert checkpoint_names(tmp_path / "a") == ["best_mAP_iter_6.pth", "epoch_1.pth", "iter_6.pth", "latest.pth"]
    state = checkpoint.load(tmp_path / "a" / "latest.pth")
    assert (state["meta"]["epoch"], state["meta"]["iter"]) == (1, 6)
    assert state["message_hub"]["runtime_info"]["best_score"] == 0.9
    toy_runner(tmp_path / "a", record=second, loop=LOOP, resume=True, **{**options, "scores": [0.5, 0.6]}).train()
    assert first.losses + second.losses == whole.losses
    assert checkpoint_names(tmp_path / "a") == ["best_mAP_iter_6.pth", "epoch_3.pth", "iter_6.pth", "latest.pth"]


def test_saving_is_no_training_time(tmp_path, monkeypatch):
    from mmcv_overrides import timer

    inside = []

    def save(self, *args, **kwargs):
        inside.append(timer.CLOCKS.paused)

    monkeypatch.setattr(Runner, "save_checkpoint", save)
    monkeypatch.setattr(checkpoint.SafeCheckpointHook, "_point_to_latest", lambda *_: None)
    toy_runner(tmp_path / "a", epochs=1).train()
    assert len(inside) == 1 and timer.CLOCKS.paused > inside[0]


def test_missing_checkpoint_has_one_message(tmp_path):
    with pytest.raises(UserError, match="gone.pth does not exist"):
        toy_runner(tmp_path / "a", epochs=1, load_from=str(tmp_path / "gone.pth")).train()


def test_resume_from_before_a_truncated_latest(tmp_path):
    toy_runner(tmp_path / "a", epochs=3).train()
    newest = tmp_path / "a" / "epoch_3.pth"
    newest.write_bytes(newest.read_bytes()[:-500])
    record = Record()
    runner = toy_runner(tmp_path / "a", epochs=3, record=record, resume=True)
    runner.train()
    assert len(record.losses) == 4 and checkpoint.load(newest)["meta"]["epoch"] == 3


def test_resume_of_another_shape_is_an_error(tmp_path):
    toy_runner(tmp_path / "a", epochs=1).train()
    with pytest.raises(UserError, match="cannot resume: 2 tensors .*load_from"):
        toy_runner(tmp_path / "a", epochs=2, model=Toy(width=3), resume=True).train()


@pytest.mark.parametrize("first", [1, 2])
def test_schedule_of_a_longer_run_is_followed_after_a_resume(tmp_path, first):
    """The checkpoint has stored an end at or before the milestone; the losses are those of one long run."""
    whole, a, b = Record(), Record(), Record()
    toy_runner(tmp_path / "whole", epochs=4, record=whole).train()
    toy_runner(tmp_path / "a", epochs=first, record=a).train()
    runner = toy_runner(tmp_path / "a", epochs=4, record=b, resume=True)
    runner.train()
    assert runner.param_schedulers[0].end == 4 and runner.param_schedulers[0].last_step == 3
    assert a.losses + b.losses == whole.losses


def test_progress_of_a_scheduler_is_not_a_setting():
    from mmengine.optim import CosineAnnealingLR, ReduceOnPlateauLR

    from mmcv_overrides.checkpoint.schedule import ScheduleChange, keep_config

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    built = [CosineAnnealingLR(optimizer, T_max=24, end=24), ReduceOnPlateauLR(optimizer, patience=5)]
    saved = [s.state_dict() for s in built]
    saved[0].update(T_max=12, end=12, last_step=7, _global_step=7)
    saved[1].update(best=0.5, num_bad_epochs=3)
    change = keep_config(built, saved)
    assert change.settings == ("CosineAnnealingLR.T_max 12 -> 24", "CosineAnnealingLR.end 12 -> 24")
    assert change.missed == ()
    assert (saved[0]["T_max"], saved[0]["last_step"], saved[0]["_global_step"]) == (24, 7, 7)
    assert (saved[1]["best"], saved[1]["num_bad_epochs"]) == (0.5, 3)
    nothing = ScheduleChange()
    assert keep_config({"a": built}, {"a": saved, "b": []}) == nothing
    assert keep_config(None, saved) == keep_config(built, None) == keep_config(built, saved[:1]) == nothing


def test_out_dir_apart_from_work_dir(tmp_path):
    toy_runner(tmp_path / "work", epochs=1, out_dir=str(tmp_path / "out")).train()
    assert checkpoint_names(tmp_path / "out" / "work") == ["epoch_1.pth", "latest.pth"]
    assert checkpoint.newest_readable(tmp_path / "work") == tmp_path / "out" / "work" / "epoch_1.pth"
