"""Inputs that several tests of the runners use."""

import struct
from pathlib import Path

import pytest

H, W = 4, 6  # of the network input


@pytest.fixture
def bins(tmp_path) -> Path:
    """Three inputs of one value each, 0, 1 and 2, with their info file."""
    folder = tmp_path / "bins"
    folder.mkdir()
    for value in range(3):
        (folder / f"img{value}.bin").write_bytes(struct.pack("<f", value) * (3 * H * W))
    rows = [f"{value} {folder}/img{value}.bin {W} {H}\n" for value in range(3)]
    (tmp_path / "coco.info").write_text("".join(rows))
    return folder
