"""What ``test/train_*.sh`` and ``scripts/train_*.sh`` do once their flags are read: check, train, tell the results.

``python -m fcos_train.launch.recipe KEY=VALUE ... -- WORDS`` is called by ``test/lib.sh`` from the root of the clone.
The keys are the launcher's flags and what it has derived from them (:class:`Recipe`); the words go to the trainer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from fcos_train.config.endurance import seconds
from fcos_train.launch.output import Output, explain_failure, rank_status, stopped_line
from fcos_train.launch.supervised import USER_ERROR, run_supervised, stop_on_signals
from mmcv_overrides.errors import UserError
from mmcv_overrides.signals import STOPPING, Stopped

LOOPBACK = ("localhost", "::1")
PORT = "23333"  # of several nodes, where none is given
RENDEZVOUS_S = DIST_S = 600  # the trainer's defaults


@dataclass(frozen=True)
class Recipe:
    """Settings of a launcher; empty: not given.

    Attributes:
        nnodes: empty for a launcher of one machine, whose environment is then left alone; MIN:MAX for an elastic job.
        work_dir: where the training is expected to write. chosen_work_dir: it is handed to the trainer.
        stem: name of the config. speed_run: a measurement of speed. plain: the log goes to the terminal.
        default_batch, default_pretrained, train_defaults: of this launcher.
    """

    config: str
    stem: str
    work_dir: str
    device_id: str
    nproc: str = "1"
    nnodes: str = ""
    node_rank: str = ""
    master_addr: str = ""
    master_port: str = ""
    local_addr: str = ""
    ifname: str = ""
    max_restarts: str = ""
    dist_timeout: str = ""
    rendezvous_timeout: str = ""
    port: str = ""
    device: str = "auto"
    data_path: str = ""
    chosen_work_dir: str = ""
    batch_size: str = ""
    learning_rate: str = ""
    max_iters: str = ""
    max_epochs: str = ""
    opt_level: str = ""
    loss_scale: str = ""
    seed: str = ""
    pretrained: str = ""
    speed_run: str = ""
    plain: str = ""
    default_batch: str = ""
    default_pretrained: str = ""
    train_defaults: str = ""

    @property
    def nodes(self) -> int:
        """Machines of the training; of an elastic job the most."""
        return int(self.nnodes.rpartition(":")[2] or 1)

    @property
    def node(self) -> int:
        """Number of this machine."""
        return int(self.node_rank or 0)

    @property
    def world(self) -> int:
        """Ranks of all machines."""
        return self.nodes * int(self.nproc)

    @property
    def master(self) -> str:
        """Address of the first machine."""
        return self.master_addr or "127.0.0.1"


def device_kind(recipe: Recipe) -> str:
    """The kind of device, or what was asked for where nothing needs to be compared.

    Raises:
        UserError: this machine has fewer devices. On a CPU ranks are processes, so any number is allowed.
    """
    kind, first, ranks = recipe.device.partition(":")[0], int(recipe.device_id), int(recipe.nproc)
    if kind == "cpu" or (recipe.world == 1 and first == 0):
        return kind
    from mmcv_overrides.device import pick

    accelerator = pick(recipe.device)[0]
    kind, count = accelerator.name, accelerator.count()
    if kind == "cpu":
        return kind
    if ranks > count:
        raise UserError(
            f"{ranks} {kind} devices asked for, but this machine has {count}; use --nproc={count} (or --device=cpu, "
            "where ranks are processes)"
        )
    if first >= count:
        raise UserError(f"device id {first} asked for, but this machine has {count} {kind} devices (0 to {count - 1})")
    return kind


def cluster_environment(recipe: Recipe) -> dict[str, str]:
    """For several nodes: the address and the interface that each library uses.

    Raises:
        UserError: rank or addresses contradict each other, or the master cannot be reached.
    """
    if recipe.node >= recipe.nodes:
        raise UserError(f"--node_rank={recipe.node}, but the ranks of {recipe.nodes} nodes are 0 to {recipe.nodes - 1}")
    address, found = recipe.local_addr, {}
    if recipe.nodes > 1:
        if _is_loopback(recipe.master):
            if not _is_loopback(address):
                raise UserError(
                    f"--nnodes={recipe.nodes}, but --master_addr={recipe.master} is only reachable from this machine; "
                    "give an address of node 0 that the other nodes can reach (to rehearse several nodes on this one "
                    f"machine, give --local_addr={recipe.master} too)"
                )
            say(
                f"note: all {recipe.nodes} nodes are on this machine (--local_addr={address}): a rehearsal, its speed "
                "means nothing"
            )
        address = address or _route(recipe.master)
        say(f"node {recipe.node} of {recipe.nodes}, this node {address}, master {recipe.master}")
        found["FCOS_LOCAL_ADDR"] = address  # mmcv_overrides/network.py finds the interface that has it
    found |= {"HCCL_IF_IP": address or "127.0.0.1", "WORLD_SIZE": str(recipe.world)}
    if recipe.ifname:
        found |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME"), recipe.ifname)
    return found


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in LOOPBACK


def _route(host: str) -> str:
    from mmcv_overrides.network import route_address

    address = route_address(host)
    if address is None:
        raise UserError(f"no route from this machine to --master_addr={host}, or unknown name")
    return address


def master_port(recipe: Recipe) -> str:
    """The given port after a check, or any free one. Only the first node listens on it, so only that one checks.

    Raises:
        UserError: the port is taken, or no port.
    """
    from fcos_train.launch.network import free_port, port_is_free

    port = recipe.master_port or recipe.port or (PORT if recipe.nodes > 1 else os.environ.get("PORT", ""))
    if not port:
        return str(free_port())
    if not port.isdecimal() or port.startswith("0") or int(port) > 65535:
        raise UserError(f"port {port} is not in 1..65535")
    if recipe.node == 0 and not port_is_free(int(port)):
        flag = "--master_port" if recipe.nnodes else "--port"
        raise UserError(f"port {port} is in use (or not allowed) on this machine; give another with {flag}=...")
    return port


def command(recipe: Recipe, port: str, extra: Sequence[str]) -> list[str]:
    """Plain Python for one rank, torchrun for more."""
    words = [sys.executable]
    if recipe.world > 1:
        words += ["-m", "fcos_train.launch.agent", *_meeting(recipe, port), "--nproc_per_node", recipe.nproc]
        words += ["--max_restarts", recipe.max_restarts or "0"]
    words += ["-m", "fcos_train", "train", recipe.config]
    words += ["--launcher", "pytorch"] if recipe.world > 1 else []
    words += _work_dir(recipe, extra)
    words += ["--device", recipe.device, "--npu-ids", recipe.device_id, "--seed", recipe.seed]
    words += ["--opt-level", recipe.opt_level, "--loss-scale", recipe.loss_scale]
    optional = {
        "--data-path": recipe.data_path,
        "--batch-size": recipe.batch_size,
        "--max-iters": recipe.max_iters,
        "--max-epochs": recipe.max_epochs,
        "--pretrained": recipe.pretrained or recipe.default_pretrained,
    }
    words += [word for flag, value in optional.items() if value for word in (flag, value)]
    return [*words, *recipe.train_defaults.split(), *_with_learning_rate(recipe.learning_rate, list(extra))]


def in_seconds(text: str) -> str:
    """Whole seconds of ``30``, ``30s`` or ``10m``, as torchrun reads them; empty as before."""
    found = seconds(text) if text else None
    return "" if found is None else f"{found:.0f}"


def _meeting(recipe: Recipe, port: str) -> list[str]:
    """How the machines find each other. An elastic job keeps its members in a store of the first machine."""
    wait = in_seconds(recipe.rendezvous_timeout) or str(RENDEZVOUS_S)
    watch = []
    if recipe.node > 0:
        watch = ["--watch-master", recipe.master, port, in_seconds(recipe.dist_timeout) or str(DIST_S)]
    if ":" not in recipe.nnodes:
        words = ["--nnodes", str(recipe.nodes), "--node_rank", str(recipe.node), "--rdzv_conf", f"timeout={wait}"]
        return [*watch, *words, "--master_addr", recipe.master, "--master_port", port]
    words = ["--nnodes", recipe.nnodes, "--rdzv_backend", "c10d", "--rdzv_endpoint", f"{recipe.master}:{port}"]
    words += ["--rdzv_id", f"fcos-train-{port}"]
    words += ["--rdzv_conf", f"is_host={int(recipe.node == 0)},join_timeout={wait},read_timeout={wait}"]
    return [*watch, *words, *(["--local_addr", recipe.local_addr] if recipe.local_addr else [])]


def deadlines(recipe: Recipe) -> dict[str, str]:
    """The environment variables of the deadlines that were given."""
    given = {"FCOS_DIST_TIMEOUT": recipe.dist_timeout, "FCOS_RENDEZVOUS_TIMEOUT": recipe.rendezvous_timeout}
    given = {name: in_seconds(text) for name, text in given.items()}
    return {name: value for name, value in given.items() if value}


def _work_dir(recipe: Recipe, extra: Sequence[str]) -> list[str]:
    """Without a work dir the trainer chooses, so that --resume finds the newest of work_dirs/NAME, NAME-2, ...

    A speed run replaces the previous one, whose checkpoints are of no use.
    """
    if recipe.chosen_work_dir:
        return ["--work-dir", recipe.work_dir]
    if not recipe.speed_run:
        return []
    given = "--overwrite" in extra or any(word.startswith("--resume") for word in extra)
    return ["--work-dir", recipe.work_dir, *([] if given else ["--overwrite"])]


def _with_learning_rate(rate: str, extra: list[str]) -> list[str]:
    """The rate joins the --cfg-options among the words, if there are any, so that there is one such flag."""
    if not rate:
        return extra
    setting = f"optim_wrapper.optimizer.lr={rate}"
    if "--cfg-options" not in extra:
        return ["--no-auto-lr", "--cfg-options", setting, *extra]
    at = extra.index("--cfg-options") + 1
    return ["--no-auto-lr", *extra[:at], setting, *extra[at:]]


def check_machines(recipe: Recipe, port: str, words: Sequence[str]) -> int:
    """The first step on several machines: ``fcos-train doctor --nnodes``. Returns its status.

    Args:
        words: the command of the training.
    """
    doctor = [sys.executable, "-m", "fcos_train", "doctor", "--nnodes", recipe.nnodes, "--node-rank", str(recipe.node)]
    doctor += ["--master-addr", recipe.master, "--master-port", port, "--nproc", recipe.nproc]
    doctor += ["--local-addr", os.environ["FCOS_LOCAL_ADDR"]]
    if recipe.rendezvous_timeout:
        doctor += ["--rendezvous-timeout", recipe.rendezvous_timeout]
    return run_supervised([*doctor, "--", *words[list(words).index("train") + 1 :]], None)


def link_data(path: str) -> None:
    """Link data/<name> to the data, for other programs that read data/coco. The training itself uses --data-path."""
    place = Path("data").absolute()
    if not path or Path(path).parent == place:
        return
    try:
        place.mkdir(exist_ok=True)
        new = place / f".{Path(path).name}.{os.getpid()}"
        new.symlink_to(path)
        try:
            new.replace(place / Path(path).name)
        except OSError:
            new.unlink()
            raise
    except OSError:
        say(f"note: could not link {path} into data/; continuing without the link")


def say(line: str) -> None:
    """Print a line at once: the training writes to the same place."""
    print(line, flush=True)


def run(recipe: Recipe, extra: Sequence[str]) -> int:
    """Check everything, then train. Nothing is written before every check has passed.

    Returns:
        0, or the status of the training, also of one that a signal has stopped.

    Raises:
        UserError: a check has failed.
        Stopped: a signal has stopped this launcher, and with it the training.
    """
    kind = device_kind(recipe)
    if recipe.nnodes:
        os.environ.update(cluster_environment(recipe))
    os.environ.update(deadlines(recipe))
    port = master_port(recipe) if recipe.world > 1 or recipe.port else ""
    if recipe.world > 1:
        from fcos_train.launch.network import rank_environment

        os.environ.update(rank_environment("cpu" if kind == "auto" else kind, int(recipe.nproc), recipe.nodes))
    words = command(recipe, port, extra)
    fixed = recipe.nodes > 1 and ":" not in recipe.nnodes  # an elastic job does not know its machines beforehand
    if fixed and (status := check_machines(recipe, port, words)):
        return status
    link_data(recipe.data_path)
    if recipe.plain:
        return run_supervised(words, None)
    output = Output.claimed(recipe.device_id, bool(recipe.speed_run), recipe.node)
    say(f"training log: {output.log.absolute()}")
    start = time.monotonic()
    try:
        status = run_supervised(words, output.log, keep=output.lock)
    except Stopped as end:
        if end.code == USER_ERROR:
            explain_failure(output.log, USER_ERROR, several=recipe.world > 1)
        say(stopped_line(output.log) or f"stopped by {end.signal.name}; no step since the start was saved")
        raise
    line = stopped_line(output.log)
    if line is None and status - 128 in STOPPING:  # the log is on the first node
        line = f"stopped by {signal.Signals(status - 128).name}"
    if line is not None:  # a signal to the training itself
        say(line)
        return status
    if status:
        status = rank_status(output.log, status) if recipe.world > 1 and status == 1 else status
        explain_failure(output.log, status, several=recipe.world > 1)
        return status
    if recipe.node > 0:
        say("this node is done; speed and accuracy are in the results of node 0")
        return 0
    work_dir = output.work_dir() or recipe.work_dir
    _report(recipe, output, work_dir, int(time.monotonic() - start))
    say(f"checkpoints: {work_dir}")
    return 0


def _report(recipe: Recipe, output: Output, work_dir: str, seconds: int) -> None:
    """Print the final block and write the case log and the losses, from the JSON log in the work dir."""
    words = [sys.executable, "-m", "fcos_train", "summary", work_dir, "--format", "launcher"]
    words += ["--case-dir", str(output.folder), "--network", recipe.stem.split("_")[0].upper()]
    words += ["--rank-size", recipe.nproc, "--batch-size", recipe.batch_size or recipe.default_batch or "1"]
    words += ["--seconds", str(seconds), "--nodes", str(recipe.nodes)]
    kind = output.device_kind()
    subprocess.run([*words, *(["--device-kind", kind] if kind else [])], check=True)


def main(words: Sequence[str]) -> int:
    """Read the settings and run."""
    at = words.index("--")
    given = dict(word.split("=", 1) for word in words[:at])
    known = {field.name for field in fields(Recipe)}
    recipe = Recipe(**{key: value for key, value in given.items() if key in known})
    stop_on_signals()
    try:
        return run(recipe, words[at + 1 :])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        return int(str(stopped.code))
    except subprocess.CalledProcessError as error:
        return error.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
