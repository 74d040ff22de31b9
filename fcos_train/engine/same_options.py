"""All ranks of a run must have been given the same: compared once at the start, whoever has started them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import mmengine.dist as dist
from mmengine.config import Config

from fcos_train.config.agreement import CONFIG, FLAGS, Facts, config_facts, digest, disagreements, flags_of
from fcos_train.config.options import EvalOptions, TrainOptions
from mmcv_overrides.errors import UserError
from mmcv_overrides.nodes import from_all_ranks

T = TypeVar("T")
MOST = 8  # lines of the message


def read_alike(options: TrainOptions | EvalOptions, read: Callable[[], tuple[Config, T]]) -> tuple[Config, T]:
    """Read the config on every rank, and compare it and the flags with those of rank 0.

    Raises:
        UserError: on every rank: one cannot read its config, or has been given something else; it names the rank and
            the node.
    """
    if dist.get_world_size() == 1:
        return read()
    kept: list[tuple[Config, T]] = []
    facts: list[Facts] = []

    def told() -> str:
        kept.append(read())
        facts.append({FLAGS: flags_of(options), CONFIG: config_facts(kept[0][0])})
        return digest(facts[0])

    found = from_all_ranks(told)
    if len({text for _, text in found}) > 1:
        others = from_all_ranks(lambda: facts[0])
        first, expected = others[0]
        lines = [line for who, other in others for line in disagreements(expected, other, who, "rank 0")]
        more = [f"and {len(lines) - MOST} more"] if len(lines) > MOST else []
        raise UserError(
            f"the ranks were not started alike ({first} is the first):\n" + "\n".join([*lines[:MOST], *more])
        )
    return kept[0]
