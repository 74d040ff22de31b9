"""Tables of malformed input: each case is a command line, files that it reads, and what the one message must name.

A module per group: :mod:`.flags` (with the environment), :mod:`.data_sets` (annotations and images), :mod:`.configs`
and :mod:`.checkpoints`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG = "fcos/fcos_tiny_shapes"
TRAIN = (
    *("--device", "cpu", "--opt-level", "O0", "--workers", "0", "--max-iters", "1", "--seed", "0"),
    *("--no-report", "--no-check", "--no-validate"),
)


@dataclass
class Room:
    """Where a case runs.

    Attributes:
        folder: of the case alone; holds the work dir ``w`` and, if code of a file runs, the file ``executed``.
        data: a data set that may be changed; made at first use.
        shapes: the same, shared and unchanged. trained: a sound checkpoint, shared.
    """

    folder: Path
    shapes: Path
    trained: Path
    copy: Callable[[Path, Path], Any]

    @property
    def data(self) -> Path:
        place = self.folder / "data"
        if not place.exists():
            self.copy(self.shapes, place)
        return place

    @property
    def marker(self) -> Path:
        return self.folder / "executed"

    def train(self, *words: object, config: object = CONFIG, data: Path | None = None) -> list[str]:
        """A training of one step."""
        place = ("--data-path", data or self.shapes, "--work-dir", self.folder / "w")
        return [str(word) for word in ("train", config, *place, *TRAIN, *words)]

    def edit(self, change: Callable[[dict], Any], split: str = "train") -> Path:
        """Change the annotations of a split of :attr:`data`."""
        file = self.data / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return file


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        name: reads as a sentence in the id of the test.
        command: makes the files in a room and returns the words of the command.
        says: texts that the message (of a command that ends well: its output) must have.
        status: 2, or 0 where the rest can be used.
        environment: variables of the command. slow: builds a model, for something that a unit test holds too.
    """

    name: str
    command: Callable[[Room], list[str]]
    says: tuple[str, ...]
    status: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    slow: bool = False
