"""The real trainer in this process, watched: losses of every step, weights before the first and after the last."""

from __future__ import annotations

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from fcos_train.config.options import TrainOptions
from fcos_train.engine.run import train

from .commands import ROOT
from .toy_runs import named

TINY = ROOT / "configs" / "fcos" / "fcos_tiny_shapes.py"


class Training:
    """One training of a tiny detector.

    Attributes:
        losses: of each step. first: the weights that the model computed with in the first step, as fp32; the hooks of
        ``before_train`` have run by then. weights: those that the optimizer updates, at the end.

    Args:
        config: text to add to the config. base: the config to add it to. hooks: run besides. options: of TrainOptions.
    """

    def __init__(
        self,
        folder: Path,
        data: Path,
        level: str,
        steps: int,
        config: str = "",
        base: Path = TINY,
        hooks: tuple[Hook, ...] = (),
        **options,
    ):
        self.folder, self.losses, self.first = folder, [], {}
        this = self

        @HOOKS.register_module(name="Watch", force=True)
        class Watch(Hook):
            def before_train_iter(self, runner, batch_idx, data_batch=None):
                this.first = this.first or {k: v.detach().float().clone() for k, v in runner.model.named_parameters()}

            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                this.losses.append(outputs["loss"].item())

            def before_train_epoch(self, runner):
                for hook in hooks:
                    hook.before_train_epoch(runner)

        folder.mkdir(parents=True)
        file = folder / f"{folder.parent.name}_{folder.name}.py"  # the runner's name comes from it, and must be new
        file.write_text(f"_base_ = {str(base)!r}\ncustom_hooks = [dict(type='Watch')]\n{config}\n")
        settings = dict(
            data_path=str(data),
            work_dir=str(folder),
            seed=0,
            batch_size=4,
            workers=0,
            validate=False,
            check=False,
            device="cpu",
            max_iters=steps,
        )
        runner = train(TrainOptions(str(file), opt_level=level, **{**settings, **options}))
        self.weights = named(runner)

    @property
    def checkpoint(self) -> str:
        return str(self.folder / "latest.pth")
