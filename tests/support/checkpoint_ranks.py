"""One of two gloo ranks: what rank 0 meets, and random states in a checkpoint. Its argument: a folder for the answers.

Run by run_script of tests.support.commands.
"""

import sys

import mmcv_overrides

mmcv_overrides.activate()

import torch
from mmengine.dist import all_gather_object, get_rank

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint import rng
from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import on_master


def _raise(error):
    raise error


def _outcome(action):
    try:
        return ("value", on_master(action))
    except Exception as error:
        return (type(error).__name__, str(error))


def main(folder: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank = get_rank()
    found = {
        "value": _outcome(lambda: get_rank() + 7),
        "user": _outcome(lambda: _raise(UserError("disk full"))),
        "nan": _outcome(lambda: _raise(checkpoint.NonFiniteWeights("nan"))),
        "bug": _outcome(lambda: _raise(KeyError("x"))),
    }
    torch.manual_seed(rank)
    states = all_gather_object(rng.capture())
    if rank == 0:
        checkpoint.save({"rng": states}, f"{folder}/a.pth")
    torch.distributed.barrier()
    drawn = torch.rand(3)
    rng.restore(checkpoint.load(f"{folder}/a.pth")["rng"][rank])
    found["same"] = torch.equal(drawn, torch.rand(3))
    found["drawn"] = drawn.tolist()
    torch.save(found, f"{folder}/rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
