"""Ranks that were started with something else than the others, by torchrun itself: refused on all of them."""

import json
import re
import shutil

import pytest

from tests.support.commands import ROOT, ok, run_script

SCRIPT = ROOT / "tests" / "support" / "unlike_ranks.py"
WHO = r"rank 1 on node 0 \(host .*\)"
ALIKE = "start all of them with the same flags"


def start(data, folder, *others, where="one", other_data=None):
    """Two ranks, the second with more words."""
    words = ["train", "fcos/fcos_tiny_shapes", "--opt-level", "O0", "--workers", "0", "--no-validate", "--no-report"]
    words += ["--max-iters", "2", "--device", "cpu", "--batch-size", "2", "--seed", "0", "--launcher", "pytorch"]
    paths = (data, other_data or data)
    both = [
        [*words, "--data-path", str(paths[n]), "--work-dir", str(folder / f"w{n}"), *(others if n else ())]
        for n in (0, 1)
    ]
    return run_script(SCRIPT, json.dumps(both), where, ranks=2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--batch-size", "4"], rf"{WHO}: --batch-size is 4, on rank 0 it is 2: {ALIKE}"),
        (
            ["--seed", "1", "--no-auto-lr"],
            rf"{WHO}: --seed is 1, on rank 0 it is 0: {ALIKE}\n  {WHO}: --no-auto-lr is given",
        ),
        (
            ["--cfg-options", "optim_wrapper.optimizer.lr=0.5"],
            rf"{WHO}: the config differs: optim_wrapper.optimizer.lr is 0.5",
        ),
        (["--cfg-options", "optim_wrapper.optimiser.lr=0.5"], rf"error: {WHO}: .*optimiser"),
    ],
)
def test_another_flag_or_config(shapes, tmp_path, words, line) -> None:
    done = start(shapes, tmp_path, *words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(line, done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_machines_with_data_of_their_own(shapes, tmp_path) -> None:
    """Each reads its own copy, also where a work dir of its own lacks what node 0 has corrected; a copy must be equal."""
    copies = [shutil.copytree(shapes, tmp_path / name) for name in ("a", "b")]
    for copy in copies:  # a box without area, which the check drops: the training reads a corrected file
        file = copy / "annotations" / "instances_train2017.json"
        coco = json.loads(file.read_text())
        coco["annotations"][0]["bbox"][2] = 0
        file.write_text(json.dumps(coco))
    done = ok(start(copies[0], tmp_path, where="machines", other_data=copies[1]))
    assert "loss" in done.stdout
    next((copies[1] / "train2017").iterdir()).unlink()
    done = start(copies[0], tmp_path, where="machines", other_data=copies[1])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search("node 1: the data set differs: train images is 23, on node 0 it is 24", done.stderr), done.stderr
