"""Data that depend on (seed, epoch, index) alone, and a loop that starts anywhere."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from mmcv_overrides import loop


class Noise(Dataset):
    """Every sample uses all three generators, as augmentations do."""

    metainfo = {"classes": ("a",)}

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


def batches(workers, epoch=0, start=0, batch=4, seed=3):
    loader = DataLoader(Noise(), batch_size=batch, num_workers=workers)
    loop.seed_batches(loader, seed)
    loader.batch_sampler.epoch, loader.batch_sampler.start = epoch, start
    return list(loader)


@pytest.mark.parametrize("workers", [1, 2])
def test_data_do_not_depend_on_workers(workers):
    for a, b in zip(batches(0), batches(workers), strict=True):
        assert torch.equal(a, b)


def test_data_do_not_depend_on_the_batch_size():
    assert torch.equal(torch.cat(batches(0, batch=4)), torch.cat(batches(0, batch=5)))


def test_epochs_and_seeds_differ():
    first, second, other = (torch.cat(b) for b in (batches(0), batches(0, epoch=1), batches(0, seed=4)))
    assert (first[:, 1:] != second[:, 1:]).all() and (first[:, 1:] != other[:, 1:]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_late_start_gives_the_rest(workers):
    whole, rest = batches(workers), batches(workers, start=3)
    assert len(rest) == 2
    for a, b in zip(whole[3:], rest):
        assert torch.equal(a, b)


def test_drawing_leaves_the_global_generators_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    data = Noise()
    assert [data[index][0].item() for index in loop.SeededBatch(range(5), range(5))] == [0, 1, 2, 3, 4]
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_draw_seeds_do_not_collide():
    seeds = {loop.draw_seed(s, e, i) for s in range(3) for e in range(20) for i in range(200)}
    assert len(seeds) == 3 * 20 * 200


def test_batches_pass_sampler_attributes_through():
    sampler = BatchSampler(SequentialSampler(range(8)), 4, False)
    assert loop.SeededBatches(sampler, 0).sampler is sampler.sampler
