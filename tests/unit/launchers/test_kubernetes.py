"""The PyTorchJob of the guide: what its pods run is read by torchrun's parser and by the product's own."""

import re
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from fcos_train.cli import train
from fcos_train.cli.generate import command
from fcos_train.config.load import find_config

ROOT = Path(__file__).resolve().parents[3]
OF_OPERATOR = {"RANK": "1", "MASTER_ADDR": "fcos-master-0", "MASTER_PORT": "23456"}


@pytest.fixture(scope="module")
def job() -> dict:
    (text,) = re.findall(
        r"^```yaml\n(apiVersion.*?)^```", (ROOT / "docs/multi-node.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return yaml.safe_load(text)


def pods(job: dict) -> list[dict]:
    return [job["spec"]["pytorchReplicaSpecs"][kind] for kind in ("Master", "Worker")]


def words(pod: dict) -> list[str]:
    (container,) = pod["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"
    return [re.sub(r"\$\((\w+)\)", lambda match: OF_OPERATOR[match[1]], word) for word in container["command"]]


def test_all_pods_run_the_same(job) -> None:
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    master, worker = pods(job)
    assert master["replicas"] == 1 and master["template"] == worker["template"]


def test_torchrun_starts_a_rank_on_each_card_of_each_pod(job) -> None:
    program, *flags = words(pods(job)[0])
    asked = get_args_parser().parse_args(flags)
    assert program == "torchrun" and asked.module and asked.training_script == "fcos_train"
    assert int(asked.nnodes) == sum(pod["replicas"] for pod in pods(job))
    (container,) = pods(job)[0]["template"]["spec"]["containers"]
    assert int(asked.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert (asked.node_rank, asked.master_addr, asked.master_port) == (1, "fcos-master-0", 23456)


def test_the_trainer_reads_its_flags(job, tmp_path) -> None:
    asked = get_args_parser().parse_args(words(pods(job)[0])[1:])
    verb, *flags = asked.training_script_args
    data = next(word for word in flags if word.startswith("--data-path="))
    options = command(train.run, "fcos-train train").parse(
        [f"--data-path={tmp_path}" if w == data else w for w in flags]
    )
    assert verb == "train" and find_config(options.config).is_file()
    assert (options.batch_size, options.seed, options.work_dir) == (2, 0, "/runs/fcos")


def test_data_run_and_shared_memory_are_mounted(job) -> None:
    spec = pods(job)[0]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts == {"data": "/data", "runs": "/runs", "memory": "/dev/shm"}
    assert {volume["name"] for volume in spec["volumes"]} == set(mounts)
