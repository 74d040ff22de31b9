"""Several machines, and the environment of an NPU."""

import json
import shutil
import stat
import subprocess

MULTI = "test/train_performance_multinodes.sh"


def test_environment_of_a_node(sandbox) -> None:
    done = sandbox.run(
        MULTI, f"--data_path={sandbox.data}", "--nnodes=2", "--node_rank=1", "--master_addr=10.9.8.7",
        "--master_port=23456", "--local_addr=10.9.8.8", "--nproc=4", "--batch_size=3", "--device_id=0",
        "--learning_rate=0.01", "--ifname=eth7", "--rendezvous_timeout=30s",
        FAKE_DEVICES="npu 4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sandbox.torchrun() == [
        "--nnodes", "2", "--node_rank", "1", "--rdzv_conf", "timeout=30", "--master_addr", "10.9.8.7",
        "--master_port", "23456", "--nproc_per_node", "4", "--max_restarts", "0",
    ]  # fmt: skip
    doctor = json.loads((sandbox.record / "doctor.json").read_text())
    at = doctor.index("--")
    assert doctor[:at] == [
        "--nnodes", "2", "--node-rank", "1", "--master-addr", "10.9.8.7", "--master-port", "23456", "--nproc", "4",
        "--local-addr", "10.9.8.8", "--rendezvous-timeout", "30s",
    ]  # fmt: skip
    assert doctor[at + 1 :] == sandbox.argv()[1:]
    env = sandbox.call()["env"]
    expected = {
        "HCCL_IF_IP": "10.9.8.8", "FCOS_LOCAL_ADDR": "10.9.8.8", "RANK_SIZE": "4", "WORLD_SIZE": "8",
        "HCCL_CONNECT_TIMEOUT": "600",
        "GLOO_SOCKET_IFNAME": "eth7", "NCCL_SOCKET_IFNAME": "eth7", "HCCL_SOCKET_IFNAME": "eth7",
    }  # fmt: skip
    assert {key: env.get(key) for key in expected} == expected
    assert "HCCL_IF_BASE_PORT" not in env
    argv = sandbox.argv()
    assert "--no-validate" in argv and argv[argv.index("--batch-size") + 1] == "3"
    assert "Final" not in done.stdout and "results of node 0" in done.stdout


def test_defaults_of_one_node(sandbox) -> None:
    done = sandbox.run(MULTI, f"--data_path={sandbox.data}", "--nproc=2", FAKE_DEVICES="npu 2")
    assert done.returncode == 0, done.stderr
    env = sandbox.call()["env"]
    assert "FCOS_LOCAL_ADDR" not in env
    assert (env["HCCL_IF_IP"], env["WORLD_SIZE"], env["RANK_SIZE"]) == ("127.0.0.1", "2", "2")
    assert int(env["HCCL_IF_BASE_PORT"]) >= 60000
    assert "GLOO_SOCKET_IFNAME" not in env


def test_own_address_is_found_and_the_port_is_23333(sandbox) -> None:
    done = sandbox.run(
        MULTI, f"--data_path={sandbox.data}", "--nnodes=2", "--node_rank=1", "--nproc=1", "--master_addr=0.0.0.0"
    )
    assert done.returncode == 0, done.stderr
    assert sandbox.call()["env"]["HCCL_IF_IP"] == "127.0.0.1"  # the way to 0.0.0.0 is the loopback
    torchrun = sandbox.torchrun()
    assert torchrun[torchrun.index("--master_port") + 1] == "23333"


def test_a_rehearsal_on_one_machine(sandbox) -> None:
    """Several nodes on the loopback: only where the local address says so as well."""
    flags = [f"--data_path={sandbox.data}", "--nnodes=2", "--nproc=1", "--master_addr=127.0.0.1"]
    done = sandbox.run(MULTI, *flags, "--node_rank=1", "--local_addr=127.0.0.2")
    assert done.returncode == 0, done.stderr
    assert "note: all 2 nodes are on this machine" in done.stdout
    assert sandbox.call()["env"]["FCOS_LOCAL_ADDR"] == "127.0.0.2"
    done = sandbox.run(MULTI, *flags, "--node_rank=1", "--local_addr=10.0.0.2")
    assert done.returncode == 2 and "to rehearse several nodes on this one machine" in done.stderr


def test_errors(sandbox) -> None:
    for flags, message in (
        (["--nnodes=2"], "--master_addr=127.0.0.1 is only reachable from this machine"),
        (["--nnodes=2", "--master_addr=localhost"], "is only reachable from this machine"),
        (["--nnodes=2", "--node_rank=2", "--master_addr=10.0.0.1"], "ranks of 2 nodes are 0 to 1"),
        (
            ["--nnodes=2", "--node_rank=1", "--master_addr=no.such.host.invalid"],
            "no route from this machine to --master_addr",
        ),
    ):
        done = sandbox.run(MULTI, f"--data_path={sandbox.data}", *flags)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not sandbox.called()


def test_machines_that_do_not_agree_train_nothing(sandbox) -> None:
    done = sandbox.run(
        MULTI, f"--data_path={sandbox.data}", "--nnodes=2", "--node_rank=1", "--nproc=1", "--master_addr=10.9.8.7",
        "--local_addr=10.9.8.8", FAKE_DOCTOR="2",
    )  # fmt: skip
    assert done.returncode == 2 and (sandbox.record / "doctor.json").exists()
    assert not sandbox.called() and not sandbox.output().exists()


def source_env(sandbox, tmp_path, **env) -> subprocess.CompletedProcess:
    script = f"set -euo pipefail; source {sandbox.root}/test/env_npu.sh; env"
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    base = {"PATH": f"{tools}:/usr/bin:/bin", "ASCEND_INSTALL_INFO": str(tmp_path / "info")}
    done = subprocess.run(["bash", "-c", script], env=base | env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done


def test_env_npu_without_anything(sandbox, tmp_path) -> None:
    (tmp_path / "info").write_text(f"Install_Path={tmp_path}/nothing\n")
    done = source_env(sandbox, tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("env_npu: no CANN set_env.sh") and done.stderr == ""
    for expected in (
        "ASCEND_SLOG_PRINT_TO_STDOUT=0", "ASCEND_GLOBAL_LOG_LEVEL=3", "ASCEND_GLOBAL_EVENT_ENABLE=0",
        "TASK_QUEUE_ENABLE=1", "PTCOPY_ENABLE=1", "COMBINED_ENABLE=1", "DYNAMIC_OP=ADD#MUL", "HCCL_WHITELIST_DISABLE=1",
    ):  # fmt: skip
        assert expected in lines
    assert not any("_ascend" in line for line in lines)
    assert "TASK_QUEUE_ENABLE=2" in source_env(sandbox, tmp_path, TASK_QUEUE_ENABLE="2").stdout


def test_env_npu_with_cann(sandbox, tmp_path) -> None:
    toolkit = tmp_path / "cann" / "nnae"
    toolkit.mkdir(parents=True)
    (toolkit / "set_env.sh").write_text("export LD_LIBRARY_PATH=/cann/lib\nexport FROM_CANN=yes\n")
    (tmp_path / "info").write_text(f"Version=8.0\nInstall_Path={tmp_path / 'cann'}\n")
    tool = tmp_path / "tools" / "msnpureport"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit 1\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    lines = source_env(sandbox, tmp_path).stdout.splitlines()
    assert "FROM_CANN=yes" in lines
    assert any(line.startswith("LD_LIBRARY_PATH=/cann/lib:") for line in lines)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [f"-g error -d {n}" for n in range(8)] + ["-e disable"]


def test_env_npu_is_sourced_only_where_it_belongs(sandbox) -> None:
    shutil.copy(sandbox.root / "test" / "env_npu.sh", sandbox.root / "test" / "env_npu.real")
    (sandbox.root / "test" / "env_npu.sh").write_text("export SEEN=$unset_variable.yes\nfalse\n")
    flags = ["test/train_full_1p.sh", f"--data_path={sandbox.data}"]
    for more, env, seen in (
        (["--device=npu"], {}, True),
        (["--device=npu"], {"etp_running_flag": "true"}, False),
        (["--device=cpu"], {"ASCEND_INSTALL_INFO": "/dev/null"}, False),
        ([], {"ASCEND_INSTALL_INFO": "/dev/null"}, True),
    ):
        done = sandbox.run(*flags, *more, **env)
        assert done.returncode == 0, done.stderr
        assert (sandbox.call()["env"].get("SEEN") == ".yes") == seen
