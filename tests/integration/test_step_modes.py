"""``--step-mode graph`` and ``compile`` through the whole trainer: logs, EMA, validation, resume."""

import pytest
import torch

from tests.support.commands import EXACT, exact, log_records, ok, refused, run

COMMON = [
    "--batch-size",
    4,
    "--workers",
    0,
    "--seed",
    0,
    "--no-auto-lr",
    "--opt-level",
    "O0",
    "--loss-scale",
    "dynamic",
]
TAPED = EXACT.with_name("taped_exact.py")


def losses(done):
    return {iteration: loss for (_, iteration), (loss, _) in exact(done).items()}


def test_a_run_of_graphs_with_a_resume_is_the_run_of_eager(shapes, tmp_path):
    plain = ["train", TAPED, "--data-path", shapes, *COMMON]
    eager = losses(ok(run(*plain, "--max-iters", 11, "--work-dir", tmp_path / "eager", "--step-mode", "eager")))
    graphs = [*plain, "--work-dir", tmp_path / "graph", "--step-mode", "graph"]
    parts = [ok(run(*graphs, "--max-iters", 5)), ok(run(*graphs, "--max-iters", 11, "--resume"))]
    for done in parts:
        assert "mode graph" in done.stdout and done.stdout.count("captured as one graph: 4 x ") == 1
    assert losses(parts[0]) | losses(parts[1]) == pytest.approx(eager, rel=1e-4) and len(eager) == 11
    first, second = log_records(tmp_path / "eager"), log_records(tmp_path / "graph")
    assert first[-1]["lr"] == second[-1]["lr"] and first[-1]["grad_norm"] == pytest.approx(
        second[-1]["grad_norm"], rel=1e-3
    )
    one, two = (
        torch.load(tmp_path / name / "latest.pth", weights_only=True)["state_dict"] for name in ("eager", "graph")
    )
    assert one.keys() == two.keys()
    for key, value in one.items():  # the moving averages
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)


def test_graph_without_a_gpu_is_refused(shapes, tmp_path):
    done = run("train", EXACT, "--data-path", shapes, "--work-dir", tmp_path, "--device", "cpu", "--step-mode", "graph")
    assert "a CUDA graph needs --device cuda, this is cpu" in refused(done)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compiled_run_is_the_run_of_eager(shapes, tmp_path):
    plain = ["train", EXACT, "--data-path", shapes, *COMMON, "--max-iters", 4]
    eager = losses(ok(run(*plain, "--work-dir", tmp_path / "eager", "--step-mode", "eager")))
    done = ok(run(*plain, "--work-dir", tmp_path / "compile", "--step-mode", "compile", timeout=1700))
    assert "compiled for 4 x " in done.stdout
    assert losses(done) == pytest.approx(eager, rel=1e-4)
