"""Two real gloo ranks: the arithmetic of one, and nothing that hangs."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.commands import EXACT, ROOT, environment, exact, moments, ok, run, run_ranks, torchrun

COMMON = ["--opt-level", "O0", "--loss-scale", "1", "--workers", "0", "--seed", "0", "--no-validate", "--no-auto-lr"]


def test_two_ranks_train_what_one_trains_on_twice_the_batch(shapes, tmp_path):
    common = ["train", EXACT, "--data-path", shapes, "--max-iters", 5, *COMMON]
    one = exact(ok(run(*common, "--batch-size", 4, "--work-dir", tmp_path / "one")))
    ranks = ok(run_ranks(2, *common, "--batch-size", 2, "--work-dir", tmp_path / "two"))
    assert "Grad strides do not match" not in ranks.stderr
    two = exact(ranks)
    assert len(one) == 5 and len(two) == 10
    for it in range(1, 6):
        ((a, images_a), (b, images_b)), (loss, images) = (two[0, it], two[1, it]), one[0, it]
        assert sorted(images_a.split(",") + images_b.split(",")) == sorted(images.split(","))
        assert (a + b) / 2 == pytest.approx(loss, rel=1e-4)


def test_a_rank_with_nothing_but_background_neither_hangs_nor_fails(shapes, tmp_path):
    data = shutil.copytree(shapes, tmp_path / "data")
    file = data / "annotations" / "instances_train2017.json"
    coco = json.loads(file.read_text())
    empty = {image["id"] for image in sorted(coco["images"], key=lambda i: i["id"])[1::2]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] not in empty]
    file.write_text(json.dumps(coco))
    done = run_ranks(
        2, "train", EXACT, "--data-path", data, "--max-iters", 3, *COMMON, "--batch-size", 2,
        "--work-dir", tmp_path / "w", "--cfg-options", "train_dataloader.sampler.shuffle=False",
        "train_dataloader.dataset.filter_cfg.filter_empty_gt=False",
    )  # fmt: skip
    seen = exact(ok(done))
    assert len(seen) == 6
    assert all(set(map(int, images.split(","))) <= empty for (rank, _), (_, images) in seen.items() if rank == 1)


def test_a_stall_names_the_slow_rank(shapes, tmp_path):
    config = tmp_path / "slow.py"
    config.write_text(
        f"_base_ = {str(EXACT)!r}\n"
        "custom_hooks = [dict(type='PrintExactLosses'), dict(type='SleepOnRank', rank=1, iteration=2, seconds=25)]\n"
    )
    done = torchrun(
        2, "train", config, "--data-path", shapes, "--max-iters", 5, *COMMON, "--batch-size", 2,
        "--work-dir", tmp_path / "w", "--launcher", "pytorch", FCOS_DIST_TIMEOUT="5",
    )  # fmt: skip
    assert done.returncode != 0
    # where the others wait depends on the head: it averages the number of positives over the ranks in its forward pass
    expected = "waiting for rank 1 (step 3 before the forward pass); the others are at step 3 in the "
    assert expected in done.stdout + done.stderr


def test_launcher_prints_the_contract_and_an_honest_fps(shapes, tmp_path):
    """The speed that is printed, against images and seconds counted by a hook of the test."""
    repository = tmp_path / "repository"
    for part in ("fcos_train", "mmcv_overrides", "configs", "test", "tests"):
        shutil.copytree(ROOT / part, repository / part, ignore=shutil.ignore_patterns("output", "__pycache__"))
    command = ["bash", "test/train_performance_8p.sh", f"--data_path={shapes}", "--nproc=2", "--batch_size=1"]
    command += [f"--config={EXACT}"]
    env = environment(PYTHONPATH=str(repository), PYTHON=sys.executable, FCOS_FOLLOW="0")
    done = ok(subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, timeout=300))
    log = (repository / "test" / "output" / "0" / "performance" / "train_0.log").read_text()
    assert "Grad strides do not match" not in log
    times = moments(log)
    assert len(times) == 12  # 24 images, two ranks of one
    counted = 2 * (12 - 5) / (times[-1] - times[4])
    printed = float(re.search(r"^Final Performance images/sec : (\S+)$", done.stdout, re.MULTILINE).group(1))
    assert printed == pytest.approx(counted, rel=0.05)
    assert "------------------ Final result ------------------" in done.stdout
    assert re.search(r"^E2E Training Duration sec : \d+$", done.stdout, re.MULTILINE)
