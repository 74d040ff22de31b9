"""Twenty steps of the trainer with our step and with mmdet's heads and batches: the same images, the same losses.

``benchmarks/training_curves.py`` does the same for 200 steps and compares the mAP.
"""

import pytest

from tests.support.commands import ROOT, exact, ok, run

STEPS = 20


def losses(config, rate, shapes, work_dir, mode):
    """(rank, iteration) -> (loss, image ids)."""
    command = ["train", ROOT / "tests" / "support" / config, "--data-path", shapes, "--work-dir", work_dir, "--seed", 0]
    command += ["--workers", 0, "--max-iters", STEPS, "--no-validate", "--opt-level", "O0", "--step-mode", mode]
    done = ok(run(*command, "--device", "cpu", "--cfg-options", f"optim_wrapper.optimizer.lr={rate}"))
    assert {"eager": "fixed-shape step: ", "mmdet": "step mode mmdet: asked for"}[mode] in done.stdout
    return exact(done)


@pytest.mark.parametrize(("config", "rate", "learned"), [("exact.py", 0.005, 0.8), ("exact_fsaf.py", 0.04, 0.95)])
def test_ours_and_mmdets_curve(config, rate, learned, shapes, tmp_path):
    ours, theirs = (losses(config, rate, shapes, tmp_path / mode, mode) for mode in ("eager", "mmdet"))
    assert list(ours) == list(theirs) and len(ours) == STEPS
    for step, (loss, images) in theirs.items():
        assert ours[step][1] == images
        assert ours[step][0] == pytest.approx(loss, rel=1e-5 if step[1] == 1 else 1e-3), step
    assert min(loss for loss, _ in ours.values()) < learned * ours[0, 1][0]
