"""What a machine knows of itself and of its training before the start, and what is wrong with it alone."""

from __future__ import annotations

import platform
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

import fcos_train
import mmcv_overrides
from fcos_train.config.agreement import CONFIG, DATA, FLAGS, config_facts, flags_of
from fcos_train.config.options import TrainOptions
from fcos_train.launch.exchange import Place, Said
from fcos_train.launch.network import port_is_free
from mmcv_overrides.errors import UserError
from mmcv_overrides.network import is_local, is_loopback, own_addresses, resolved

SOFTWARE, CODE, DEVICE = "software", "code of FCOS-Train", "device"
PACKAGES = {
    "torch": ("torch",),
    "torch_npu": ("torch-npu",),
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite", "mmcv-full"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "numpy": ("numpy",),
}
T = TypeVar("T")


def node_facts(place: Place, nproc: int, options: TrainOptions | None, faults: list[str]) -> Said:
    """The facts of this machine, as they are sent to node 0.

    Args:
        nproc: ranks of this machine. options: of the training; None: unknown. faults: what is wrong already.

    Returns:
        ``facts``: sections to be compared; ``faults``; the work dir as ``folder``, ``free`` (bytes), ``checkpoints``
        (files there) and ``resume``; ``address``.
    """
    faults = [*faults, *address_faults(place)]
    facts = {FLAGS: {"--nnodes": str(place.nodes), "--nproc": str(nproc)}, SOFTWARE: software(), CODE: code()}
    said: Said = {"address": place.address, "facts": facts}
    if options is not None:
        facts[FLAGS] |= flags_of(options)
        _of_training(options, nproc, facts, said, faults)
    return {**said, "faults": [f"node {place.node} ({place.address}): {' '.join(fault.split())}" for fault in faults]}


def address_faults(place: Place) -> list[str]:
    """What is wrong with the addresses and the port, as far as this machine can tell."""
    found, here = [], f"this machine has {own_addresses()}"
    rehearsal = is_loopback(place.host) and is_loopback(place.address)
    if not is_local(place.address):
        found.append(f"no interface of this machine has the address {place.address} (--local_addr): {here}")
    elif is_loopback(place.address) and not rehearsal:
        found.append(f"--local_addr={place.address} is the loopback, which no other machine can reach: {here}")
    if not rehearsal and is_loopback(resolved(place.host)):
        found.append(
            f"--master_addr={place.host} is the loopback on this machine, by its name or by /etc/hosts: give an "
            f"address of node 0 that the others can reach; {here}"
        )
    if place.node == 0 and not is_local(place.host):
        found.append(
            f"--master_addr={place.host} is no address of this machine, and node 0 is the master: correct it, or give "
            f"--node_rank=1 or more; {here}"
        )
    if place.node == 0 and not port_is_free(place.port):
        found.append(
            f"port {place.port} is in use here, or not allowed: give another --master_port on all nodes, or end the "
            "program that listens on it (ss -ltnp)"
        )
    return found


def software() -> dict[str, str]:
    """Versions of what a training consists of; of Python without the patch level."""
    found = {"fcos-train": fcos_train.__version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for name, distributions in PACKAGES.items():
        for distribution in distributions:
            with suppress(metadata.PackageNotFoundError):
                found.setdefault(name, metadata.version(distribution))
    return found


def code() -> dict[str, str]:
    """Checksums of the product's modules: two checkouts of one version may differ."""
    found = {}
    for package in (fcos_train, mmcv_overrides):
        root = Path(package.__path__[0])
        for file in sorted(root.rglob("*.py")):
            found[str(file.relative_to(root.parent))] = f"{zlib.crc32(file.read_bytes()):08x}"
    return found


def _of_training(options: TrainOptions, nproc: int, facts: dict, said: Said, faults: list[str]) -> None:
    """Add what the training reads and where it writes."""
    from fcos_train.config.dataset import files_of_config
    from fcos_train.config.load import configured, fill, read_config, stem
    from fcos_train.data.fingerprint import fingerprint, fingerprint_of_files
    from mmcv_overrides import device

    def tried(action: Callable[[], T]) -> T | None:
        try:
            return action()
        except UserError as error:
            faults.append(str(error))
            return None

    if options.batch_size == "auto":
        faults.append("--batch-size auto measures on one machine: give a number on all nodes")
    accelerator = tried(lambda: device.pick(options.device)[0])
    if accelerator is not None:
        facts[DEVICE] = {"kind": accelerator.name}
        if accelerator.name != "cpu" and nproc > accelerator.count():
            faults.append(f"{nproc} ranks, but {accelerator.count()} {accelerator.name} devices: give another --nproc")
    # Without --cfg-options there is nothing to translate, and the check of keys, which loads all of mmdet, can wait.
    if not options.cfg_options:
        cfg = tried(lambda: read_config(options.config, options.safe_config)[0])
    elif (read := tried(lambda: configured(options.config, options.cfg_options, options.safe_config))) is not None:
        cfg, options = read[0], fill(options, read[1])
    else:
        cfg = None
    if cfg is None:
        return
    facts[CONFIG] = config_facts(cfg)
    if options.data_path is not None:
        path = options.data_path
        data = tried(lambda: fingerprint(path, options.allow_outside))
    else:
        data = tried(lambda: fingerprint_of_files(files_of_config(cfg), options.allow_outside))
    if data is not None:
        facts[DATA] = data
    folder = Path(options.work_dir or cfg.get("work_dir") or Path("work_dirs") / stem(options.config)).absolute()
    existing = _existing(folder)
    free = shutil.disk_usage(existing).free
    said |= {"folder": str(folder), "free": free, "checkpoints": len(list(folder.glob("*.pth")))}
    said["resume"] = bool(options.resume)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


@contextmanager
def marked(node: int, said: Said) -> Iterator[Said]:
    """The facts with a file at the work dir, by which node 0 finds out whether it sees the same disk; removed after."""
    if "folder" not in said:
        yield said
        return
    marker = _existing(Path(said["folder"])) / f".fcos-train-{token_hex(8)}"
    try:
        marker.touch()
    except OSError as error:
        who = f"node {node} ({said['address']})"
        fault = f"{who}: the work dir cannot be written ({marker.parent}: {error.strerror}): give another --work-dir"
        yield {**said, "faults": [*said["faults"], fault]}
        return
    try:
        yield {**said, "marker": str(marker)}
    finally:
        with suppress(OSError):
            marker.unlink()
