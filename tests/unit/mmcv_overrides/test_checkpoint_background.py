"""Checkpoints written beside the training: the same bytes, the state of one instant, errors that are not lost."""

import threading

import pytest
import torch

from mmcv_overrides.checkpoint import NonFiniteWeights, background, load, save
from mmcv_overrides.checkpoint.background import BackgroundWriter
from mmcv_overrides.checkpoint.host_copy import HostCopy
from mmcv_overrides.errors import UserError


def state() -> dict:
    """Shared and strided tensors, an empty one, one without elements, bf16, and values beside them."""
    base = torch.arange(24.0).reshape(4, 6)
    weights = {"a": base, "b": base[1:3], "c": base.t(), "d": torch.empty(0), "e": torch.tensor(2.5)}
    weights["f"] = torch.ones(3, dtype=torch.bfloat16)
    return {"meta": {"iter": 7, "names": ("x", "y")}, "state_dict": weights, "rng": [{"torch": torch.get_rng_state()}]}


@pytest.fixture
def writer():
    made = BackgroundWriter()
    yield made
    made.close()


def test_the_file_has_the_same_bytes_as_without_a_thread(tmp_path, writer):
    content = state()
    (tmp_path / "one").mkdir()
    save(content, tmp_path / "one" / "a.pth")
    for _ in range(2):  # the second into memory that is kept
        writer.save(content, tmp_path / "a.pth", lambda: None)
        writer.wait()
        assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "one" / "a.pth").read_bytes()
    assert 24 * 4 < writer.nbytes < 64 * 1024


def test_the_state_is_that_of_the_moment_of_saving(tmp_path, writer, monkeypatch):
    go, content = threading.Event(), state()
    written = background.write
    monkeypatch.setattr(background, "write", lambda *args: (go.wait(10), written(*args)))
    writer.save(content, tmp_path / "a.pth", lambda: None)
    content["state_dict"]["a"].fill_(-1.0)
    assert not (tmp_path / "a.pth").exists()
    go.set()
    writer.wait()
    assert load(tmp_path / "a.pth")["state_dict"]["b"].tolist() == [[6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17]]


def test_what_follows_a_file_comes_after_it_and_files_in_their_order(tmp_path, writer):
    seen = []
    for name in ("a.pth", "b.pth"):
        writer.save(state(), tmp_path / name, lambda: seen.append(sorted(p.name for p in tmp_path.glob("*.pth"))))
    writer.after(lambda: seen.append("last"))
    writer.wait()
    assert seen == [["a.pth"], ["a.pth", "b.pth"], "last"]


def test_an_error_is_raised_once_at_the_next_save_and_nothing_follows_it(tmp_path, writer):
    seen = []

    def full() -> None:
        raise UserError("no room")

    writer.save(state(), tmp_path / "a.pth", full)
    writer.after(lambda: seen.append("after"))
    with pytest.raises(UserError, match="no room"):
        writer.save(state(), tmp_path / "b.pth", lambda: None)
    assert seen == [] and not (tmp_path / "b.pth").exists()
    writer.save(state(), tmp_path / "b.pth", lambda: None)
    writer.wait()
    assert (tmp_path / "b.pth").exists()


def test_weights_that_are_not_finite_are_refused_before_anything_is_written(tmp_path, writer):
    content = state()
    content["state_dict"]["a"][0, 0] = float("inf")
    with pytest.raises(NonFiniteWeights, match="inf or nan in a, b"):
        save(
            {"state_dict": {"a": torch.tensor([1.0, float("nan")]), "b": torch.tensor([float("inf")])}}, tmp_path / "x"
        )
    with pytest.raises(NonFiniteWeights):
        writer.save(content, tmp_path / "a.pth", lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_a_sum_that_overflows_is_not_taken_for_inf(tmp_path):
    save(
        {"state_dict": {"a": torch.full((8,), 3e38), "h": torch.full((9,), 6e4, dtype=torch.half)}}, tmp_path / "a.pth"
    )
    assert load(tmp_path / "a.pth")["state_dict"]["a"][0] == torch.tensor(3e38)


def test_a_copy_shares_storages_as_the_original_does():
    content = state()
    copied = HostCopy().take(content)["state_dict"]
    assert copied["a"].data_ptr() != content["state_dict"]["a"].data_ptr()
    assert copied["b"].data_ptr() == copied["a"].data_ptr() + 24 and copied["c"].stride() == (1, 6)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.full((2, 2), float("nan")), "body.weight has only nan"),
        (torch.tensor([1.0, float("nan"), float("inf")]), "body.weight has 2 of 3 values nan and inf"),
        (torch.ones(2, dtype=torch.complex64), r"body.weight is complex \(complex64\)"),
    ],
)
def test_weights_that_no_model_can_compute_with_are_refused(value, says, tmp_path):
    torch.save({"state_dict": {"mask": torch.tensor([float("-inf")]), "body.weight": value}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=says):
        load(tmp_path / "a.pth")
    torch.save(
        {"state_dict": {"mask": torch.tensor([float("-inf")]), "body.weight": torch.ones(2)}}, tmp_path / "a.pth"
    )
    assert load(tmp_path / "a.pth")["state_dict"]["mask"].isinf().all()
