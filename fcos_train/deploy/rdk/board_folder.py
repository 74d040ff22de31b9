"""The folder that goes to a board: a model, its description, and a program that needs numpy and OpenCV alone."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import fcos_train.deploy.decoder
import fcos_train.deploy.rdk.board
from fcos_train.deploy.parts.description import beside, read_description
from mmcv_overrides.errors import UserError

PROGRAM = '''"""Detect the objects of one image: python3 rdk_demo.py --test-img IMAGE (--help shows all flags)."""

import sys
from pathlib import Path

from fcos_rdk.rdk.board.command import main

MODEL = Path(__file__).resolve().parent / "{model}"
words = sys.argv[1:]
given = any(word.split("=")[0] == "--model-path" for word in words)
sys.exit(main(words if given else ["--model-path", str(MODEL), *words]))
'''
PACKAGES = {
    "fcos_rdk/decoder": fcos_train.deploy.decoder,
    "fcos_rdk/rdk/board": fcos_train.deploy.rdk.board,
}


def write_board_folder(folder: str | Path, model: str | Path) -> list[Path]:
    """Write the folder completely or not at all.

    Args:
        folder: must not exist, or be empty. model: a `.bin` of ``fcos-train export --target rdk-x5`` or ``rdk-x3``;
            an `.onnx` of the same export runs on any machine with onnxruntime.

    Returns:
        the files, relative to the folder.

    Raises:
        UserError: the folder holds something, or the model or its description is missing.
    """
    folder, model = Path(folder), Path(model)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; give a new one")
    if model.suffix not in (".bin", ".onnx") or not model.is_file():
        raise UserError(f"--model {model}: give the .bin (or .onnx) file of an export to rdk-x5 or rdk-x3")
    place = _description(model)
    content = read_description(place)
    if "rdk" not in content:
        raise UserError(f"{place} is not of an export to rdk-x5 or rdk-x3")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "board"
        for name, package in PACKAGES.items():
            _copy_sources(Path(str(package.__file__)).parent, made / name)
        for name in ("fcos_rdk", "fcos_rdk/rdk"):
            (made / name / "__init__.py").write_text('"""Copied by fcos-train rdk board-folder."""\n')
        shutil.copyfile(model, made / model.name)
        (made / f"{model.name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        (made / "rdk_demo.py").write_text(PROGRAM.format(model=model.name), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _description(model: Path) -> Path:
    """The description of a model; of an `.onnx`, that of the `.bin` or `.yaml` beside it."""
    for end in (".bin.json", ".yaml.json"):
        place = model.with_name(model.stem + end)
        if place.is_file():
            return place
    return beside(model)


def _copy_sources(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in sorted(source.glob("*.py")):
        shutil.copyfile(file, target / file.name)
