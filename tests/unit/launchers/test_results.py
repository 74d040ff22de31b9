"""What the launchers print and write after a training; exit statuses; signals."""

import os
import platform
import signal
import subprocess
import time
from pathlib import Path

import pytest

HEAD = "2026-01-01 12:00:00,000 - mmdet - INFO - "
DEVICE = "device npu: found 1, chosen by 'auto'\n"
LOG = f"{DEVICE}{HEAD}Epoch [1][50/100]\tlr: 1.250e-03, eta: 1:02:03, time: 0.310, FPS: 48.10, loss: 1.8000\n"


def train(step: int, **numbers) -> dict:
    return {"mode": "train", "epoch": 1, "iter": step, "step": step, "lr": 0.00125, "time": 0.31, **numbers}


def val(epoch: int, accuracy: float | str) -> dict:
    return {"mode": "val", "epoch": epoch, "iter": 72, "bbox_mAP": accuracy, "bbox_mAP_50": 0.99}


# What the training writes beside the text log.
RECORDS = [
    train(50, fps=48.1, loss_cls=0.5123, loss=1.8, grad_norm=3.1),
    train(100, fps=49.25, loss_cls=0.4123, loss=1.5, grad_norm=2.1),
    val(1, 0.126),
    val(2, 0.362),
    val(3, 0.351),
]


def final_block(stdout: str) -> list[str]:
    lines = stdout.splitlines()
    at = lines.index("------------------ Final result ------------------")
    return lines[at + 1 : at + 4]


def case_log(path: Path) -> list[tuple[str, str]]:
    return [tuple(line.split(" = ", 1)) for line in path.read_text().splitlines()]


def test_block_case_log_and_losses(sandbox) -> None:
    done = sandbox.run(
        "test/train_full_1p.sh",
        f"--data_path={sandbox.data}",
        FAKE_LOG=sandbox.log(LOG),
        FAKE_JSON=sandbox.json_log(*RECORDS),
        FAKE_CONFIG="train_dataloader = dict(batch_size=16)\noptim_wrapper = dict(opt_level='O1', loss_scale=32.0)\n",
    )
    assert done.returncode == 0, done.stderr
    block = final_block(done.stdout)
    assert block[0] == "Final Performance images/sec : 49.25"
    assert block[1] == "Final Train Accuracy : 0.3620"
    assert block[2].startswith("E2E Training Duration sec : ")
    seconds = block[2].split(" : ")[1]
    assert 0 <= int(seconds) < 60
    assert case_log(sandbox.output() / "FCOS_bs16_1p_acc.log") == [
        ("Network", "FCOS"),
        ("RankSize", "1"),
        ("BatchSize", "16"),
        ("DeviceType", platform.machine()),
        ("CaseName", "FCOS_bs16_1p_acc"),
        ("ActualFPS", "49.25"),
        ("TrainingTime", "324.87"),  # 16 * 1000 / 49.25
        ("TrainAccuracy", "0.3620"),
        ("ActualLoss", "1.5000"),
        ("E2ETrainingTime", seconds),
        ("Nodes", "1"),
        ("Devices", "1"),
        ("DeviceKind", "npu"),
        ("Epochs", "1"),
        ("AMP_Type", "O1"),
        ("Loss_Scale", "32.0"),
        ("TableHead", "| Acc@1 | FPS | Npu/Gpu_nums | Epochs | AMP_Type | Loss_Scale |"),
        ("TableRow", "| 36.2 | 49.2 | 1 (npu) | 1 | O1 | 32.0 |"),
    ]
    assert "results table, row:  | 36.2 | 49.2 | 1 (npu) | 1 | O1 | 32.0 |" in done.stdout.splitlines()
    assert (sandbox.output() / "train_FCOS_bs16_1p_acc_loss.txt").read_text() == "1.8000\n1.5000\n"
    assert (sandbox.output() / "train_0.log").read_text().splitlines()[1:] == [*LOG.splitlines(), ""]
    assert done.stdout.splitlines()[-2:] == [
        "case log: test/output/0/FCOS_bs16_1p_acc.log",
        f"checkpoints: {sandbox.record.parent / 'chosen work dir'}",
    ]
    assert f"training log: {sandbox.output() / 'train_0.log'}" in done.stdout


def test_case_of_eight_devices(sandbox) -> None:
    records = [train(50, fps=50.0, loss=2.68), train(100, fps=53.333, loss=2.47), val(1, 0.164)]
    done = sandbox.run("test/train_full_8p.sh", f"--data_path={sandbox.data}", FAKE_JSON=sandbox.json_log(*records))
    assert final_block(done.stdout)[:2] == ["Final Performance images/sec : 53.33", "Final Train Accuracy : 0.1640"]
    log = dict(case_log(sandbox.output() / "FCOS_bs2_8p_acc.log"))
    assert (log["RankSize"], log["BatchSize"], log["ActualLoss"], log["TrainingTime"]) == ("8", "2", "2.4700", "37.50")
    assert (sandbox.output() / "train_FCOS_bs2_8p_acc_loss.txt").read_text() == "2.6800\n2.4700\n"


def test_training_without_numbers(sandbox) -> None:
    done = sandbox.run("test/train_performance_8p.sh", f"--data_path={sandbox.data}", "--nproc=2")
    assert done.returncode == 0 and done.stderr == ""
    assert final_block(done.stdout)[:2] == ["Final Performance images/sec : n/a", "Final Train Accuracy : n/a"]
    log = dict(case_log(sandbox.speed_output / "FCOS_bs2_2p_acc.log"))
    assert log["TrainingTime"] == "n/a" and log["ActualLoss"] == ""
    assert (sandbox.speed_output / "train_FCOS_bs2_2p_acc_loss.txt").read_text() == ""


def test_a_run_that_was_all_warm_up_says_so(sandbox) -> None:
    done = sandbox.run(
        "test/train_full_1p.sh", f"--data_path={sandbox.data}", FAKE_JSON=sandbox.json_log(train(5, fps=0.0, loss=1.5))
    )
    assert final_block(done.stdout)[0] == "Final Performance images/sec : n/a"
    assert "no FPS: no epoch had more than 5 iterations, and the first 5 are warm-up" in done.stdout.splitlines()


def test_a_loss_that_is_not_finite_is_shown(sandbox) -> None:
    records = [RECORDS[0], train(100, fps=49.25, loss="nan"), val(1, 0.351), val(2, "nan")]
    done = sandbox.run("test/train_full_1p.sh", f"--data_path={sandbox.data}", FAKE_JSON=sandbox.json_log(*records))
    assert final_block(done.stdout)[1] == "Final Train Accuracy : 0.3510"
    assert (sandbox.output() / "train_FCOS_bs16_1p_acc_loss.txt").read_text() == "1.8000\nnan\n"


def test_output_of_an_earlier_run_is_removed(sandbox) -> None:
    sandbox.output().mkdir(parents=True)
    (sandbox.output() / "old").touch()
    sandbox.run("test/train_full_1p.sh", f"--data_path={sandbox.data}")
    assert not (sandbox.output() / "old").exists()


def test_a_speed_run_leaves_the_results_of_a_training(sandbox) -> None:
    data = f"--data_path={sandbox.data}"
    sandbox.run("test/train_full_1p.sh", data, FAKE_JSON=sandbox.json_log(*RECORDS))
    sandbox.run(
        "test/train_performance_1p.sh",
        data,
        FAKE_JSON=sandbox.json_log(train(100, fps=7.0, loss=1.5)),
        FAKE_WORK_DIR="speed run",
    )
    full, speed = (
        dict(case_log(folder / "FCOS_bs16_1p_acc.log")) for folder in (sandbox.output(), sandbox.speed_output)
    )
    assert (full["ActualFPS"], speed["ActualFPS"]) == ("49.25", "7.00")
    sandbox.run("test/train_full_1p.sh", data)
    assert (sandbox.speed_output / "FCOS_bs16_1p_acc.log").is_file()


def test_nodes_that_share_a_disk_keep_their_logs_apart(sandbox) -> None:
    """The second node starts while the first one trains, and both end with their numbers."""
    multi = [
        "test/train_performance_multinodes.sh",
        f"--data_path={sandbox.data}",
        "--nnodes=2",
        "--nproc=1",
        "--master_addr=10.9.8.7",
    ]
    gate = sandbox.record / "gate"
    os.mkfifo(gate)  # the first node's training prints its log when the gate opens
    command, env = sandbox.command(*multi, "--node_rank=0")
    env |= {"FAKE_LOG": str(gate), "FAKE_JSON": sandbox.json_log(*RECORDS)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as first:
        while not sandbox.called():
            time.sleep(0.05)
        second = sandbox.run(*multi, "--node_rank=1", FAKE_LOG=sandbox.log("the log of node 1"))
        assert second.returncode == 0 and "results of node 0" in second.stdout, second.stderr
        gate.write_text(LOG)
        stdout = first.communicate(timeout=60)[0]
    assert first.returncode == 0 and final_block(stdout)[0] == "Final Performance images/sec : 49.25"
    log = dict(case_log(sandbox.speed_output / "FCOS_bs2_1p_acc.log"))
    assert (log["RankSize"], log["Nodes"], log["Devices"], log["DeviceKind"]) == ("1", "2", "2", "npu")
    assert "the log of node 1" in (sandbox.speed_output / "node1" / "train_0.log").read_text()


def test_two_trainings_at_once_have_an_output_each(sandbox) -> None:
    data = f"--data_path={sandbox.data}"
    gate = sandbox.record / "gate"
    os.mkfifo(gate)
    command, env = sandbox.command("test/train_full_1p.sh", data)
    env |= {"FAKE_LOG": str(gate), "FAKE_JSON": sandbox.json_log(*RECORDS[:3]), "FAKE_WORK_DIR": "first"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as first:
        while not sandbox.called():
            time.sleep(0.05)
        second = sandbox.run("test/train_full_1p.sh", data, FAKE_JSON=sandbox.json_log(*RECORDS))
        assert "case log: test/output/0-2/FCOS_bs16_1p_acc.log" in second.stdout, second.stdout + second.stderr
        assert final_block(second.stdout)[1] == "Final Train Accuracy : 0.3620"
        gate.write_text(LOG)
        stdout = first.communicate(timeout=60)[0]
    assert final_block(stdout)[1] == "Final Train Accuracy : 0.1260"
    assert "case log: test/output/0/FCOS_bs16_1p_acc.log" in stdout


def test_text_of_a_data_set_is_no_result(sandbox) -> None:
    """A class name can put any text into the log; the numbers come from elsewhere."""
    forged = (
        f"class a bbox_mAP: 0.9990, FPS: 999.00, loss: 0.0\n{HEAD}Epoch(val) [9][9]\tbbox_mAP: 0.9990\nFPS: 999.00\n"
    )
    done = sandbox.run(
        "test/train_full_1p.sh",
        f"--data_path={sandbox.data}",
        FAKE_LOG=sandbox.log(forged + LOG + forged),
        FAKE_JSON=sandbox.json_log(*RECORDS),
    )
    assert final_block(done.stdout)[:2] == ["Final Performance images/sec : 49.25", "Final Train Accuracy : 0.3620"]
    assert (sandbox.output() / "train_FCOS_bs16_1p_acc_loss.txt").read_text() == "1.8000\n1.5000\n"


@pytest.mark.parametrize("follow", ["0", "1"])
def test_failure_is_told_and_passed_on(sandbox, follow) -> None:
    done = sandbox.run(
        "test/train_full_1p.sh",
        f"--data_path={sandbox.data}",
        FAKE_EXIT="3",
        FAKE_ERROR="no usable image",
        FCOS_FOLLOW=follow,
    )
    assert done.returncode == 3
    assert "failed with status 3" in done.stderr and "error: no usable image" in done.stderr
    assert str(sandbox.output() / "train_0.log") in done.stderr
    assert "Final" not in done.stdout and "awk" not in done.stderr
    assert not list(sandbox.output().glob("*_acc.log"))
    assert ("a line of the log" in done.stdout) == (follow == "1")


def test_status_of_a_rank_comes_through_torchrun(real_torchrun) -> None:
    done = real_torchrun.run(
        "test/train_full_8p.sh", f"--data_path={real_torchrun.data}", "--nproc=2", FAKE_EXIT="3", FAKE_ERROR="bad data"
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[0] == "error: the training failed with status 3; it said:"
    said = done.stderr.splitlines()
    # a line of the other rank may have come between
    assert (said[1], said[-1]) == ("    error: bad data", f"the whole log: {real_torchrun.output()}/train_0.log")
    assert "Final" not in done.stdout
    for rank in (0, 1):
        env = real_torchrun.call(rank)["env"]
        assert (env["WORLD_SIZE"], env["LOCAL_RANK"]) == ("2", str(rank))


def living(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "ranks, sent, status, follow", [(1, "TERM", 143, "0"), (1, "INT", 130, "1"), (2, "TERM", 143, "1")]
)
def test_a_signal_leaves_no_child(real_torchrun, ranks, sent, status, follow) -> None:
    command, env = real_torchrun.command(
        "test/train_full_1p.sh", f"--data_path={real_torchrun.data}", f"--nproc={ranks}"
    )
    env |= {"FAKE_SLEEP": "1", "FCOS_FOLLOW": follow}
    launcher = subprocess.Popen(
        command,
        cwd=real_torchrun.root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )
    files = [real_torchrun.record / f"pids{rank}" for rank in range(ranks)]
    deadline = time.monotonic() + 60
    while not all(f.exists() and len(f.read_text().split()) == 2 for f in files):
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.05)
    pids = [int(pid) for f in files for pid in f.read_text().split()]
    os.kill(launcher.pid, getattr(signal, f"SIG{sent}"))
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == status
    assert "stopping the training" in err and "Final" not in out
    assert [pid for pid in pids if living(pid)] == []
