"""A short training that plain mmengine can run as well: it imports nothing of the overrides."""

from __future__ import annotations

from pathlib import Path

from mmengine.runner import Runner

from tests.support.toy_runs import Points, Toy


def run(folder: Path, epochs: int, resume: bool = False) -> Runner:
    """Train for four iterations an epoch, in the order of the data set."""
    runner = Runner(
        model=Toy(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=Points(),
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=0.01),
            paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
        ),
        param_scheduler=dict(type="MultiStepLR", milestones=[3], gamma=0.1, end=10),
        resume=resume,
        default_scope="mmengine",
        experiment_name=f"{folder.name}_{epochs}_{resume}",
    )
    runner.train()
    return runner
