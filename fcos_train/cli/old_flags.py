"""What has taken the place of flags that mmdet 2.x's and the Ascend recipes' scripts had and our verbs have not."""

from __future__ import annotations

_CFG_OPTIONS = "settings of the config are given by --cfg-options"
_RANKS = "one process runs per device: bash test/train_full_1p.sh --nproc=N, or torchrun --nproc_per_node=N"
_COLLECTED = "results of several ranks are collected without it; leave it out"

# verb -> flag, with dashes -> what to do instead
ADVICE = {
    "train": {
        "--npus": _RANKS,
        "--gpus": _RANKS,
        "--gpu-id": "give the first card by --npu-ids",
        "--gpu-ids": "give the first card by --npu-ids, and --nproc=N to test/train_full_1p.sh for several",
        "--amp": "mixed precision is on; --opt-level O0 turns it off",
        "--autoscale-lr": "the learning rate follows the global batch; --no-auto-lr turns that off",
        "--auto-scale-lr": "the learning rate follows the global batch; --no-auto-lr turns that off",
        "--diff-seed": "data and random numbers of the ranks differ anyway; leave it out",
        "--options": _CFG_OPTIONS,
        "--bin": "operators need no such switch; leave it out",
    },
    "eval": {
        "--fuse-conv-bn": "norms are folded where that gives the same numbers; leave it out",
        "--format-only": "give --cfg-options test_evaluator.format_only=True",
        "--show": "drawn images are written with --show-dir DIR",
        "--gpu-collect": _COLLECTED,
        "--tmpdir": _COLLECTED,
        "--eval-options": "settings of the metric are given by --cfg-options test_evaluator.KEY=VALUE",
        "--options": _CFG_OPTIONS,
        "--tta": "test-time augmentation is not supported",
    },
}


def replacement(name: str, flag: str) -> str | None:
    """What to do instead of an old flag.

    Args:
        name: of the command, e.g. ``fcos-train train``. flag: as it was written.
    """
    return ADVICE.get(name.split()[-1], {}).get(flag.replace("_", "-"))
