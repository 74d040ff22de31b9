"""Batches of a training: faults end it after the batches before, samples that are left out are counted once each."""

import pytest
from torch.utils.data import DataLoader, Dataset

from mmcv_overrides import fetching
from mmcv_overrides.errors import UserError


class Numbers(Dataset):
    """0 to 7; a faulty number raises, or leaves its place to the next one."""

    def __init__(self, faulty=(), replaced=()):
        self.faulty, self.replaced = faulty, replaced

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index in self.faulty:
            raise UserError(f"number {index}")
        if index in self.replaced:
            fetching.leave_out(f"number {index}")
            return self[(index + 1) % 8]
        return index


def batches(dataset, allowed=0, workers=0):
    found = fetching.Fetching(
        DataLoader(dataset, 2, num_workers=workers, collate_fn=lambda samples: {"inputs": samples}), allowed
    )
    return found, iter(found)


def test_without_faults_they_are_those_of_the_loader():
    found, source = batches(Numbers())
    assert [batch["inputs"] for batch in source] == [[0, 1], [2, 3], [4, 5], [6, 7]] and not found.left_out


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_comes_after_the_batches_before_it(workers):
    _, source = batches(Numbers(faulty=(5,)), workers=workers)
    assert [next(source)["inputs"], next(source)["inputs"]] == [[0, 1], [2, 3]]
    with pytest.raises(fetching.DataFault, match="number 5") as caught:
        next(source)
    assert isinstance(caught.value.error(), UserError)


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_are_left_out_are_counted_by_name(workers):
    found, source = batches(Numbers(replaced=(1, 6)), allowed=2, workers=workers)
    content = [batch for _ in range(2) for batch in (source if not _ else found)]  # two epochs
    assert [batch["inputs"] for batch in content] == 2 * [[0, 2], [2, 3], [4, 5], [7, 7]]
    assert found.left_out == {"number 1": 2, "number 6": 2} and all(batch.keys() == {"inputs"} for batch in content)


def test_one_more_than_allowed_ends_the_training():
    _, source = batches(Numbers(replaced=(1, 4, 5)), allowed=2)
    assert [next(source)["inputs"], next(source)["inputs"]] == [[0, 2], [2, 3]]
    with pytest.raises(
        fetching.DataFault, match="3 samples cannot be loaded, more than 2: number 1; number 4; number 5"
    ):
        next(source)


def test_the_fault_of_another_rank_is_a_user_error():
    fault = fetching.DataFault(None, "cannot read image a.jpg")
    assert isinstance(fault.error(), UserError) and str(fault.error()) == "cannot read image a.jpg"
