"""The options of a training and of an evaluation, and what several commands have in common.

Each field declares its flag, help, choices and checks (see :mod:`fcos_train.config.fields`). None means that an option
was not given, so that the config file decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fcos_train.config.endurance import IF_ANY, Endurance
from fcos_train.config.fields import Option, Options, existing, existing_file, existing_folder
from fcos_train.config.launcher import launcher_faults, under_torchrun
from fcos_train.config.values import parse_cfg_options
from fcos_train.progress import MODES
from fcos_train.weights.index import weights_fault

DEVICES = ("auto", "cpu", "cuda", "npu")
OPT_LEVELS = ("O0", "O1", "O2", "bf16")
HALF_TYPES = ("fp16", "bf16")
PRETRAINED = ("require", "auto", "none")
STEP_MODES = ("auto", "eager", "compile", "graph", "mmdet")
SPLITS = ("train", "val", "test")
LAUNCHERS = ("none", "pytorch", "slurm")
NOT_JSON = (".pkl", ".pickle", ".yaml", ".yml", ".npy", ".npz", ".csv")  # --out of mmdet 2.x was a pickle
MAX_SEED = 2**32 - 1  # of numpy
MAX_BATCH, MAX_WORKERS = 65_536, 1024  # above, a slip of the keyboard would fill the memory or the table of processes


def device_fault(value: str) -> str | None:
    """A kind of device, with or without the index of a card."""
    name, _, index = value.lower().partition(":")
    if name == "cpu" and index.strip("0"):
        return "the processor is one device: leave out the number; --devices N starts several ranks on it"
    if name in (*DEVICES, "gpu") and (index.isdecimal() or ":" not in value):
        return None
    return f"choose from {', '.join(DEVICES)}, or one card as in npu:0"


def loss_scale_fault(value: str | float | dict[str, Any]) -> str | None:
    """A positive number, or what stands for a dynamic scale; a dict holds the arguments of :class:`LossScale`."""
    if value == "dynamic" or isinstance(value, dict):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number == -1 or 0 < number < float("inf"):
        return None
    return "give a positive number such as 32.0, or dynamic (-1 means dynamic too)"


def batch_size_fault(value: str | int) -> str | None:
    """A number of images, or ``auto``."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        return "must be a whole number, or auto"
    if value > MAX_BATCH:
        return f"must be at most {MAX_BATCH}"
    return None if value >= 1 else "must be at least 1"


def _number_or_word(words: Sequence[str]) -> str | int:
    return int(words[-1]) if words[-1].lstrip("+-").isdecimal() else words[-1]


def json_name_fault(value: str) -> str | None:
    """A file name that does not promise another format than JSON."""
    if Path(value).suffix in NOT_JSON:
        return "the numbers are written as JSON; give a name that ends in .json"
    return None


def _resume_fault(value: str) -> str | None:
    return None if value in ("auto", IF_ANY) or Path(value).exists() else "no such file"


def _config_or_none(words: Sequence[str]) -> str | None:
    return None if words[-1] == "-" else words[-1]


Config = Annotated[str, Option("a config file, its name within configs/, or mmdet::folder/name", positional=True)]
Device = Annotated[str, Option("auto, cpu, cuda or npu, or one card as in npu:0", metavar="DEVICE", check=device_fault)]
TrustCheckpoint = Annotated[bool, Option("allow checkpoints that execute code when they are read")]
SafeConfig = Annotated[
    bool,
    Option("read the config as data: refuse a program (also the config.py beside a checkpoint) and unregistered parts"),
]
AllowOutside = Annotated[
    tuple[str, ...],
    Option(
        "folder outside the data folder that its paths and links may lead to (may be given several times)",
        metavar="DIR",
        default="none",
        check=existing_folder,
    ),
]
CfgOptions = Annotated[
    dict[str, Any],
    Option(
        "change any key of the config, e.g. model.backbone.depth=18",
        metavar="K=V",
        default="no change",
        parse=parse_cfg_options,
    ),
]
Launcher = Annotated[
    str | None,
    Option(
        "pytorch: join the other ranks of torchrun; slurm: join the other tasks of srun; none: run alone",
        metavar="LAUNCHER",
        default="pytorch under torchrun, else none",
        choices=LAUNCHERS,
    ),
]
LocalRank = Annotated[
    int | None,
    Option("accepted because older launchers pass it; the environment tells the same", metavar="N", hidden=True),
]
Progress = Annotated[
    str | None,
    Option(
        "bar: progress bars and tables; lines: log lines only; auto: bars on a terminal",
        metavar="MODE",
        default="FCOS_TRAIN_PROGRESS, else auto",
        choices=MODES,
    ),
]
Devices = Annotated[
    int | None,
    Option(
        "start so many ranks on this machine, one for each device; on a CPU ranks are processes",
        metavar="N",
        default="1",
        least=1,
    ),
]
OptionalConfig = Annotated[
    str | None,
    Option("config to use", metavar="FILE", default="the one in the checkpoint"),
]
Report = Annotated[bool, Option("do not write report/index.html after evaluations")]
Workers = Annotated[
    int | None,
    Option(
        "loader processes per rank",
        metavar="N",
        default="the config's, at most one per core",
        least=0,
        most=MAX_WORKERS,
    ),
]


@dataclass(frozen=True)
class TrainOptions(Endurance):
    """Options of ``fcos-train train``.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    config: Config
    data_path: Annotated[
        str | None,
        Option(
            "data set in COCO, VOC or YOLO layout: a folder, its data.yaml, or a .zip or .tar of it; class names come "
            "from its annotations",
            metavar="DIR",
            default="the config's",
            check=existing,
        ),
    ] = None
    work_dir: Annotated[
        str | None,
        Option(
            "folder for logs and checkpoints",
            metavar="DIR",
            default="work_dirs/<config name>; with -2, -3, ... appended if that holds another run",
        ),
    ] = None
    device: Device = "auto"
    devices: Devices = None
    opt_level: Annotated[
        str | None,
        Option(
            "level of mixed precision",
            metavar="LEVEL",
            default="O1; O0 on a processor that only emulates bfloat16",
            choices=OPT_LEVELS,
        ),
    ] = None
    amp_dtype: Annotated[
        str | None,
        Option("half type of O1 and O2", metavar="TYPE", default="the faster one of the device", choices=HALF_TYPES),
    ] = None
    loss_scale: Annotated[
        str | float | None,
        Option("static loss scale, or dynamic (-1)", metavar="N", default="32.0", check=loss_scale_fault),
    ] = None
    seed: Annotated[
        int | None,
        Option(
            "seed of weights and data",
            metavar="N",
            default="drawn, and printed",
            least=0,
            most=MAX_SEED,
        ),
    ] = None
    deterministic: Annotated[bool | None, Option("deterministic kernels on an accelerator; slower")] = None
    max_iters: Annotated[
        int | None, Option("iterations in all", metavar="N", default="as many as the epochs have", least=1)
    ] = None
    max_epochs: Annotated[
        int | None, Option("epochs; the schedule is stretched to fit", metavar="N", default="the config's", least=1)
    ] = None
    batch_size: Annotated[
        str | int | None,
        Option(
            "images per device and step; auto: the most that fit into the memory, as measured before the training",
            metavar="N",
            default="the config's",
            check=batch_size_fault,
            parse=_number_or_word,
        ),
    ] = None
    workers: Workers = None
    lr_base: Annotated[
        int | None,
        Option(
            "global batch size that the config's learning rate is meant for",
            metavar="N",
            default="the config's auto_scale_lr",
            least=1,
        ),
    ] = None
    auto_lr: Annotated[bool, Option("do not scale the learning rate with the batch size")] = True
    resume: Annotated[
        str | None,
        Option(
            "continue from this checkpoint; without a value, from the newest readable one of the work dir; if-any: "
            "from that, or anew where there is none",
            metavar="CKPT",
            default="start anew",
            flags=("--resume", "--resume-from"),  # the second is mmdet 2.x's
            bare="auto",
            check=_resume_fault,
        ),
    ] = None
    load_from: Annotated[
        str | None,
        Option(
            "start from these weights: a file, a name of `fcos-train weights`, or coco for those that fit the config",
            metavar="CKPT",
            default="the config's load_from",
            check=weights_fault,
        ),
    ] = None
    pretrained: Annotated[
        str,
        Option(
            "weights that the config names: require them (an error if they are absent), auto: use them if present, "
            "none: random",
            metavar="MODE",
            choices=PRETRAINED,
        ),
    ] = "require"
    step_mode: Annotated[
        str,
        Option(
            "how a step runs: eager, compile (torch.compile) and graph (one CUDA graph per step) have fixed shapes; "
            "mmdet is mmdet's own step; auto is eager where the model has fixed shapes",
            metavar="MODE",
            choices=STEP_MODES,
        ),
    ] = "auto"
    validate: Annotated[bool, Option("no evaluation during training")] = True
    check: Annotated[bool, Option("do not print the data report")] = True
    report: Report = True
    classes: Annotated[
        tuple[str, ...] | None, Option("train on these classes only", metavar="NAME", default="all classes")
    ] = None
    launcher: Launcher = None
    npu_ids: Annotated[int | None, Option("first card to use", metavar="N", default="0", least=0)] = None
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False
    cfg_options: CfgOptions = field(default_factory=dict)
    allow_outside: AllowOutside = ()
    overwrite: Annotated[
        bool, Option("replace the run in the work dir: its checkpoints, logs and curves are removed")
    ] = False
    progress: Progress = None
    local_rank: LocalRank = None

    def conflicts(self) -> list[str]:
        """Options that contradict each other."""
        faults = [*launcher_faults(self), *super().conflicts()]
        if self.batch_size == "auto" and (self.launcher not in (None, "none") or under_torchrun()):
            faults.append(
                "--batch-size auto measures on one device: start the ranks with --devices N, or give a number"
            )
        if self.batch_size == "auto" and self.resume:
            faults.append("--batch-size auto contradicts --resume, which continues with the batch size of its run")
        if self.resume and self.overwrite:
            faults.append("--resume continues a run and --overwrite replaces it: give one of them")
        if self.resume and self.load_from:
            faults.append(
                "--resume continues a run and --load-from starts a new one from its weights: give one of them"
            )
        if self.opt_level == "bf16" and self.amp_dtype == "fp16":
            faults.append("--opt-level bf16 contradicts --amp-dtype fp16; use O1 with fp16")
        return faults


@dataclass(frozen=True)
class EvalOptions(Options):
    """Options of ``fcos-train eval``.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    config: Annotated[
        str | None,
        Option(
            "the config it was trained with; - is the config.py beside the checkpoint",
            positional=True,
            parse=_config_or_none,
        ),
    ]
    checkpoint: Annotated[str, Option("the weights", positional=True, check=existing_file)]
    data_path: Annotated[
        str | None,
        Option(
            "data set in COCO, VOC or YOLO layout: a folder, its data.yaml, or a .zip or .tar of it",
            metavar="DIR",
            default="the config's",
            check=existing,
        ),
    ] = None
    work_dir: Annotated[
        str | None, Option("folder for the results", metavar="DIR", default="eval/ beside the checkpoint")
    ] = None
    device: Device = "auto"
    devices: Devices = None
    batch_size: Annotated[int | None, Option("images per device", metavar="N", default="the config's", least=1)] = None
    workers: Workers = None
    out: Annotated[
        str | None,
        Option("also write the numbers as JSON", metavar="FILE", default="not written", check=json_name_fault),
    ] = None
    show_dir: Annotated[
        str | None, Option("draw the detections of every image", metavar="DIR", default="not drawn")
    ] = None
    show_score_thr: Annotated[float, Option("smallest score that is drawn", metavar="S", least=0, most=1)] = 0.3
    classes: Annotated[
        tuple[str, ...] | None,
        Option("the classes it was trained on, if only some of the data set's", metavar="NAME", default="all classes"),
    ] = None
    report: Report = True
    split: Annotated[
        str | None,
        Option(
            "images to evaluate on",
            metavar="SPLIT",
            default="val; of a config whose data set is not checked, what its test_dataloader reads",
            choices=SPLITS,
        ),
    ] = None
    launcher: Launcher = None
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False
    cfg_options: CfgOptions = field(default_factory=dict)
    allow_outside: AllowOutside = ()
    metrics: Annotated[
        tuple[str, ...],
        Option("accepted for old scripts; boxes are evaluated", metavar="METRIC", flags=("--eval",), choices=("bbox",)),
    ] = ("bbox",)
    progress: Progress = None
    local_rank: LocalRank = None

    def conflicts(self) -> list[str]:
        """A launcher that did not launch this process."""
        return launcher_faults(self)
