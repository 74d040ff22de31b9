"""Flags, defaults and errors of the launchers, and the command that they start."""

import os
import socket

import pytest

LAUNCHERS = [
    f"test/train_{name}.sh"
    for name in ("full_1p", "full_8p", "performance_1p", "performance_8p", "performance_multinodes")
]
CONFIG = "configs/fcos/fcos_r50_caffe_fpn_4x4_1x_coco.py"


def value(argv: list[str], flag: str) -> str:
    assert argv.count(flag) == 1, (flag, argv)
    return argv[argv.index(flag) + 1]


@pytest.mark.parametrize("script", LAUNCHERS)
def test_data_path_is_required(sandbox, script) -> None:
    done = sandbox.run(script)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == '[Error] para "data_path" must be confing'
    assert len(done.stdout.splitlines()) == 2
    assert not sandbox.called()


@pytest.mark.parametrize(
    "script, ranks, batch, performance",
    [
        ("full_1p", 1, "16", False),
        ("full_8p", 8, "2", False),
        ("performance_1p", 1, "16", True),
        ("performance_8p", 8, "2", True),
        ("performance_multinodes", 8, "2", True),
    ],
)
def test_defaults(sandbox, script, ranks, batch, performance) -> None:
    done = sandbox.run(f"test/train_{script}.sh", f"--data_path={sandbox.data}")
    assert done.returncode == 0, done.stderr
    assert "device id is 0" in done.stdout.splitlines()
    argv = sandbox.argv()
    assert argv[:2] == ["train", CONFIG]
    assert value(argv, "--data-path") == str(sandbox.data)
    if performance:
        assert value(argv, "--work-dir") == str(sandbox.root / "work_dirs/performance/fcos_r50_caffe_fpn_4x4_1x_coco")
    assert ("--work-dir" in argv, "--overwrite" in argv) == (performance, performance)
    assert [value(argv, f"--{k}") for k in ("seed", "opt-level", "loss-scale", "device")] == ["0", "O1", "32.0", "auto"]
    assert value(argv, "--batch-size") == batch
    assert "--no-auto-lr" not in argv and "--cfg-options" not in argv
    assert ("--no-validate" in argv) == performance
    assert ("--max-epochs" in argv) == performance
    assert sandbox.call()["env"]["RANK_SIZE"] == str(ranks)
    assert sandbox.call()["env"]["ASCEND_DEVICE_ID"] == "0"
    assert sandbox.call()["cwd"] == str(sandbox.root)
    if ranks > 1:
        torchrun = sandbox.torchrun()
        assert value(torchrun, "--nproc_per_node") == str(ranks)
        assert (value(torchrun, "--nnodes"), value(torchrun, "--node_rank")) == ("1", "0")
        assert value(torchrun, "--master_addr") == "127.0.0.1"
        assert 1024 <= int(value(torchrun, "--master_port")) <= 65535
        assert value(argv, "--launcher") == "pytorch"
    else:
        assert "--launcher" not in argv


def test_every_flag_arrives(sandbox) -> None:
    done = sandbox.run(
        "test/train_full_1p.sh", f"--data_path={sandbox.data}", "--config=mmdet::fsaf/fsaf_r50_fpn_1x_coco.py",
        "--device=cpu", "--max_iters=7", "--max_epochs=3", "--batch_size=5", "--work_dir=out/here", "--opt_level=O0",
        "--loss_scale=dynamic", "--seed=42", "--device_id=3", "--learning_rate=0.004", "--", "--workers", "0",
        "--cfg-options", "a.b=1", cwd=sandbox.data.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    argv = sandbox.argv()
    assert argv[1] == "mmdet::fsaf/fsaf_r50_fpn_1x_coco.py"
    expected = {
        "--device": "cpu", "--max-iters": "7", "--max-epochs": "3", "--batch-size": "5", "--opt-level": "O0",
        "--loss-scale": "dynamic", "--seed": "42", "--npu-ids": "3", "--workers": "0",
        "--work-dir": str(sandbox.data.parent / "out/here"),
    }  # fmt: skip
    assert {flag: value(argv, flag) for flag in expected} == expected
    # one --cfg-options: a second would replace the first
    at = argv.index("--cfg-options")
    assert argv[at + 1 :] == ["optim_wrapper.optimizer.lr=0.004", "a.b=1"]
    assert argv.count("--cfg-options") == 1 and "--no-auto-lr" in argv
    assert "device id is 3" in done.stdout
    assert (sandbox.output(3) / "train_3.log").exists()
    assert (sandbox.output(3) / "FSAF_bs5_1p_acc.log").exists()


@pytest.mark.parametrize(
    "script, flags, given",
    [
        ("full_1p", [], []),
        ("full_1p", ["--pretrained=none"], ["none"]),
        ("performance_1p", [], ["auto"]),  # speed does not depend on the weights
        ("performance_1p", ["--pretrained=none"], ["none"]),
        ("performance_1p", ["--", "--pretrained", "none"], ["auto", "none"]),  # the last one counts
    ],
)
def test_pretrained(sandbox, script, flags, given) -> None:
    done = sandbox.run(f"test/train_{script}.sh", f"--data_path={sandbox.data}", *flags)
    assert done.returncode == 0, done.stderr
    argv = sandbox.argv()
    assert [argv[at + 1] for at, word in enumerate(argv) if word == "--pretrained"] == given


def test_learning_rate_alone(sandbox) -> None:
    sandbox.run("test/train_full_8p.sh", f"--data_path={sandbox.data}", "--learning_rate=0.02")
    assert sandbox.argv()[-3:] == ["--no-auto-lr", "--cfg-options", "optim_wrapper.optimizer.lr=0.02"]


def test_chosen_config_keeps_its_batch(sandbox) -> None:
    mine = sandbox.data.parent / "mine_r18.py"
    mine.touch()
    done = sandbox.run(
        "test/train_full_1p.sh",
        f"--data_path={sandbox.data}",
        "--config=mine_r18.py",
        cwd=sandbox.data.parent,
        FAKE_BATCH="8",
    )
    assert done.returncode == 0, done.stderr
    assert sandbox.argv()[1] == str(mine)
    assert "--batch-size" not in sandbox.argv()
    assert (sandbox.output() / "MINE_bs8_1p_acc.log").exists()


def test_max_iters_replaces_the_epoch_of_a_performance_run(sandbox) -> None:
    sandbox.run("test/train_performance_1p.sh", f"--data_path={sandbox.data}", "--max_iters=20")
    assert value(sandbox.argv(), "--max-iters") == "20"
    assert "--max-epochs" not in sandbox.argv()


@pytest.mark.parametrize("folder", [".", "test", "/"])
def test_runs_from_anywhere(sandbox, folder) -> None:
    cwd = sandbox.root / folder
    path = os.path.relpath(sandbox.data, cwd)
    done = sandbox.run("test/train_full_1p.sh", f"--data_path={path}", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert value(sandbox.argv(), "--data-path") == str(sandbox.data)
    assert (sandbox.output() / "train_0.log").exists() and (sandbox.output() / "ckpt").is_dir()
    assert (sandbox.root / "data" / "coco").resolve() == sandbox.data


def test_data_inside_the_data_folder_is_not_linked_to_itself(sandbox) -> None:
    inside = sandbox.root / "data" / "shapes"
    inside.mkdir(parents=True)
    (sandbox.root / "data" / "coco").symlink_to(sandbox.data)
    for path in ("data/shapes", "data/coco"):
        assert sandbox.run("test/train_full_1p.sh", f"--data_path={path}").returncode == 0
    assert inside.is_dir() and not inside.is_symlink() and list(inside.iterdir()) == []
    assert (sandbox.root / "data" / "coco").resolve() == sandbox.data


def test_a_data_folder_that_cannot_be_written_is_no_fault(sandbox) -> None:
    (sandbox.root / "data").write_text("a file in the way")
    done = sandbox.run("test/train_full_1p.sh", f"--data_path={sandbox.data}")
    assert done.returncode == 0 and "note: could not link" in done.stdout


def test_environment_device_wins(sandbox) -> None:
    done = sandbox.run("test/train_full_1p.sh", f"--data_path={sandbox.data}", "--device_id=1", ASCEND_DEVICE_ID="2")
    assert "device id is 2" in done.stdout and sandbox.output(2).is_dir() and not sandbox.output(1).exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--max_iter=5"], "unknown flag --max_iter; did you mean --max_iters?"),
        (["--zzzzzz=5"], "unknown flag --zzzzzz (--help"),
        (["--nproc=0"], "--nproc=0 is not a positive whole number"),
        (["--batch_size=two"], "--batch_size=two is not a positive whole number"),
        (["--seed"], "--seed needs a value"),
        (["stray"], "unexpected 'stray'"),
        (["--pretrained=always"], "--pretrained=always: choose require, auto or none"),
        (["--config=none.py"], "--config=none.py: no such file"),
        (["--data_path=no/such"], "--data_path=no/such: no such folder"),
        (["--nproc=2", "--port=70000"], "port 70000 is not in 1..65535"),
    ],
)
def test_user_errors(sandbox, flags, message) -> None:
    done = sandbox.run("test/train_full_1p.sh", f"--data_path={sandbox.data}", *flags)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not sandbox.called() and not sandbox.output().exists()


def test_help_lists_the_flags(sandbox) -> None:
    done = sandbox.run("test/train_performance_multinodes.sh", "--help")
    assert done.returncode == 0
    for flag in ("data_path", "nproc", "config", "nnodes", "node_rank", "master_port", "local_addr"):
        assert f"--{flag}=" in done.stdout


def test_port_in_use_and_given_port(sandbox) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for done in (
            sandbox.run("test/train_full_8p.sh", f"--data_path={sandbox.data}", f"--port={port}"),
            sandbox.run("test/train_full_8p.sh", f"--data_path={sandbox.data}", PORT=port),
        ):
            assert done.returncode == 2 and f"port {port} is in use" in done.stderr and not sandbox.called()
        assert sandbox.run("test/train_full_1p.sh", f"--data_path={sandbox.data}", PORT=port).returncode == 0
    done = sandbox.run("test/train_full_8p.sh", f"--data_path={sandbox.data}", f"--port={port}")
    assert done.returncode == 0, done.stderr
    assert value(sandbox.torchrun(), "--master_port") == port


def test_too_many_devices(sandbox) -> None:
    done = sandbox.run("test/train_full_8p.sh", f"--data_path={sandbox.data}", "--device=npu", FAKE_DEVICES="npu 2")
    assert done.returncode == 2 and "8 npu devices asked for, but this machine has 2" in done.stderr
    assert not sandbox.called()
    done = sandbox.run("test/train_full_1p.sh", f"--data_path={sandbox.data}", "--device_id=4", FAKE_DEVICES="cuda 4")
    assert done.returncode == 2 and "device id 4" in done.stderr
    done = sandbox.run("test/train_full_8p.sh", f"--data_path={sandbox.data}", "--device=cuda", FAKE_DEVICES="npu 2")
    assert done.returncode == 2 and "error: --device cuda: not here" in done.stderr
    done = sandbox.run("test/train_full_8p.sh", f"--data_path={sandbox.data}", "--nproc=2", FAKE_DEVICES="cuda 2")
    assert done.returncode == 0, done.stderr


def test_scripts_train_to_the_terminal(sandbox) -> None:
    done = sandbox.run("scripts/train_8p.sh", f"--data_path={sandbox.data}", FAKE_EXIT="3")
    assert done.returncode == 3 and "a line of the log" in done.stdout
    assert "Final" not in done.stdout and not sandbox.output().exists()
    assert sandbox.run("scripts/train_1p.sh").returncode == 0
    assert "--data-path" not in sandbox.argv() and "--launcher" not in sandbox.argv()
