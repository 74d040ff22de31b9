"""Length, learning rate, warm-up and clipping of a training. Run: ``pytest tests/unit/config/test_schedule.py``."""

import pytest
from mmengine.config import Config, ConfigDict

from fcos_train.config.options import TrainOptions
from fcos_train.config.schedule import safe_schedule, scale_learning_rate, set_length, total_iterations
from mmcv_overrides.errors import UserError


def config(**changes) -> Config:
    """12 epochs of SGD at 0.01 for a global batch of 16, 2 images a step."""
    values = dict(
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1),
        train_dataloader=dict(batch_size=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01), clip_grad=dict(max_norm=1)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=500),
            dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11]),
        ],
        auto_scale_lr=dict(enable=False, base_batch_size=16),
    )
    return Config({**values, **changes})


def options(**given) -> TrainOptions:
    return TrainOptions(config="c.py", **given)


@pytest.mark.parametrize(
    ("train_cfg", "images", "ranks", "steps"),
    [
        (dict(max_epochs=12), 100, 1, 600),  # 12 x ceil(100 / 2)
        (dict(max_epochs=12), 101, 1, 612),  # the last batch is smaller
        (dict(max_epochs=3), 100, 8, 21),  # 3 x ceil(100 / 16)
        (dict(max_epochs=12, max_iters=7), 100, 1, 600),  # max_iters cuts the run, not its schedule
        (dict(type="IterBasedTrainLoop", max_iters=90), 100, 1, 90),
        (dict(max_epochs=12), 0, 1, None),  # another kind of data set
    ],
)
def test_total_iterations(train_cfg, images, ranks, steps):
    assert total_iterations(config(train_cfg=train_cfg), images, ranks) == steps


@pytest.mark.parametrize(
    ("batch", "ranks", "accumulate", "given", "expected"),
    [
        (2, 8, 1, {}, 0.01),
        (2, 1, 1, {}, 0.00125),  # 0.01 x 2 / 16
        (4, 8, 2, {}, 0.04),  # 0.01 x 64 / 16
        (2, 1, 1, {"lr_base": 4}, 0.005),
        (2, 1, 1, {"auto_lr": False}, 0.01),
        (2, 1, 1, {"cfg_options": {"optim_wrapper.optimizer.lr": 0.01}}, 0.01),
        (2, 1, 1, {"cfg_options": {"auto_scale_lr.enable": False}}, 0.01),
    ],
)
def test_learning_rate_follows_the_global_batch(batch, ranks, accumulate, given, expected):
    cfg = config(train_dataloader=dict(batch_size=batch))
    cfg.optim_wrapper["accumulative_counts"] = accumulate
    line = scale_learning_rate(cfg, options(**given), ranks)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(expected)
    assert f"global batch {batch * ranks * accumulate}" in line
    again = scale_learning_rate(cfg, options(), ranks)  # as in a training from the written config
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(expected), again
    assert cfg.auto_scale_lr.enable is False  # mmengine must not scale it again


@pytest.mark.parametrize(("total", "end"), [(None, 500), (10_000, 500), (600, 60), (5, 1)])
def test_warm_up_is_at_most_a_tenth(total, end):
    cfg = config()
    notes = safe_schedule(cfg, total)
    assert cfg.param_scheduler[0].end == end
    assert notes == ([] if end == 500 else [f"warm-up shortened from 500 to {end} iterations, a tenth of the run"])


@pytest.mark.parametrize(
    "schedulers", [None, [], [dict(type="MultiStepLR", milestones=[8])], dict(type="CosineAnnealingLR")]
)
def test_a_warm_up_is_added(schedulers):
    cfg = config(param_scheduler=schedulers)
    (note,) = safe_schedule(cfg, None)
    first, *others = cfg.param_scheduler
    assert (first.type, first.begin, first.end, first.start_factor) == ("LinearLR", 0, 500, 1 / 3)
    assert note.startswith("warm-up on: 500 iterations") and len(others) == (1 if schedulers else 0)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [("absent", dict(max_norm=35, norm_type=2)), (None, None), (dict(max_norm=1), dict(max_norm=1))],
)
def test_clipping_is_on_unless_the_config_says_otherwise(clip, expected):
    cfg = config()
    if clip == "absent":
        cfg.optim_wrapper.pop("clip_grad")
    else:
        cfg.optim_wrapper["clip_grad"] = clip
    notes = safe_schedule(cfg, None)
    assert cfg.optim_wrapper.clip_grad == expected
    assert any("gradient clip on" in note for note in notes) is (clip == "absent")


def test_max_epochs_stretches_the_schedule():
    cfg = config()
    set_length(cfg, options(max_epochs=6))
    warm_up, steps = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, steps.milestones, steps.end) == (6, [4, 6], 6)  # 11 / 2 rounds to 6
    assert warm_up.end == 500  # iterations stay


def test_max_iters_leaves_the_schedule():
    cfg = config()
    set_length(cfg, options(max_iters=30))
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.max_iters) == (12, 30)
    assert cfg.param_scheduler[1].milestones == [8, 11]


def test_validation_comes_before_the_end():
    cfg = config(train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=5))
    set_length(cfg, options(max_epochs=2))
    assert cfg.train_cfg.val_interval == 2


def test_epochs_of_a_config_that_counts_iterations():
    with pytest.raises(UserError, match="--max-epochs: this config counts iterations; use --max-iters"):
        set_length(config(train_cfg=dict(type="IterBasedTrainLoop", max_iters=90)), options(max_epochs=2))
    cfg = config(train_cfg=ConfigDict(type="IterBasedTrainLoop", max_iters=90))
    set_length(cfg, options(max_iters=7))
    assert cfg.train_cfg == dict(type="IterBasedTrainLoop", max_iters=7)
