"""Two gloo ranks: what rank 0 meets, all ranks know; random states of each rank are kept apart."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
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


def _work(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
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
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_work, args=(port, str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]


def test_every_rank_gets_the_answer_or_the_error_of_rank_0(ranks):
    for found in ranks:
        assert found["value"] == ("value", 7)
        assert found["user"] == ("UserError", "disk full")
        assert found["nan"] == ("NonFiniteWeights", "nan")
    assert ranks[0]["bug"] == ("KeyError", "'x'")
    assert ranks[1]["bug"] == ("RuntimeError", "rank 0 failed: KeyError: 'x'")


def test_each_rank_gets_its_own_random_state_back(ranks):
    assert ranks[0]["same"] and ranks[1]["same"]
    assert ranks[0]["drawn"] != ranks[1]["drawn"]
