"""Flags and environment variables with values that nobody can obey."""

from __future__ import annotations

from tests.support.malformed import CONFIG, Case, Room

# words after the config -> what the message must have
TRAIN_FLAGS: tuple[tuple[str, str], ...] = (
    ("--seed -1", "--seed -1: must be between 0 and 4294967295"),
    (f"--seed {2**70}", f"--seed {2**70}: must be between 0 and 4294967295"),
    ("--seed 1.5", "--seed 1.5: must be a whole number"),
    ("--seed one", "--seed one: must be a whole number"),
    ("--batch-size 0", "--batch-size 0: must be at least 1"),
    ("--batch-size -4", "--batch-size -4: must be at least 1"),
    ("--batch-size 1000000000", "--batch-size 1000000000: must be at most"),
    ("--batch-size 2.5", "--batch-size 2.5: must be a whole number, or auto"),
    ("--batch-size many", "--batch-size many: must be a whole number, or auto"),
    ("--batch-size auto --resume", "--batch-size auto contradicts --resume"),
    ("--workers -1", "--workers -1: must be"),
    ("--workers two", "--workers two: must be a whole number"),
    ("--workers 1000000", "--workers 1000000: must be between 0 and"),
    ("--max-iters 0", "--max-iters 0: must be at least 1"),
    ("--max-iters -1", "--max-iters -1: must be at least 1"),
    ("--max-iters 1e3", "--max-iters 1e3: must be a whole number"),
    ("--max-epochs 0", "--max-epochs 0: must be at least 1"),
    ("--max-epochs x", "--max-epochs x: must be a whole number"),
    ("--lr 0", "--lr 0"),
    ("--lr -0.1", "--lr -0.1: must be above 0"),
    ("--lr nan", "--lr nan: must be a number, not nan"),
    ("--lr inf", "--lr inf: must be above 0"),
    ("--lr high", "--lr high: must be a number"),
    ("--lr-base 0", "--lr-base 0: must be at least 1"),
    ("--accumulate 0", "--accumulate 0: must be at least 1"),
    ("--eval-every 0", "--eval-every 0: must be at least 1"),
    ("--eval-every 1 --no-validate", "--eval-every needs evaluations"),
    ("--patience 0", "--patience 0: must be at least 1"),
    ("--img-size 8", "--img-size 8: must be"),
    ("--img-size 64 64 64", "--img-size 64 64 64: give one or two numbers of px"),
    ("--img-size 10000000", "--img-size 10000000: must be between 32 and"),
    ("--img-size wide", "--img-size wide: give one or two numbers of px"),
    ("--balance 2", "--balance 2"),
    ("--balance nan", "--balance nan: must be"),
    ("--freeze half", "--freeze half: give a number of stages, or backbone"),
    ("--loss-scale 0", "--loss-scale 0: give a positive number"),
    ("--loss-scale nan", "--loss-scale nan: give a positive number"),
    ("--loss-scale big", "--loss-scale big: give a positive number"),
    ("--opt-level O3", "--opt-level O3: choose from O0, O1, O2, bf16"),
    ("--opt-level bf16 --amp-dtype fp16", "--opt-level bf16 contradicts --amp-dtype fp16"),
    ("--amp-dtype fp8", "--amp-dtype fp8: choose from fp16, bf16"),
    ("--step-mode fast", "--step-mode fast: choose from"),
    ("--augment wild", "--augment wild: choose from"),
    ("--logger paper", "--logger paper: choose from"),
    ("--launcher mpi", "--launcher mpi: choose from"),
    ("--launcher pytorch", "--launcher pytorch: start with torchrun"),
    ("--device tpu", "--device tpu: choose from"),
    ("--device cpu:9", "--device cpu:9: "),
    ("--device npu:x", "--device npu:x: choose from"),
    ("--devices 0", "--devices 0: must be at least 1"),
    ("--npu-ids -1", "--npu-ids -1: must be at least 0"),
    ("--max-bad-samples -1", "--max-bad-samples -1: must be at least 0"),
    ("--max-bad-samples few", "--max-bad-samples few: must be a whole number"),
    ("--resume nothing.pth", "--resume nothing.pth: no such file"),
    ("--resume --overwrite", "--resume continues a run and --overwrite replaces it"),
    ("--load-from nothing.pth", "--load-from nothing.pth"),
    ("--pretrained maybe", "--pretrained maybe: choose from"),
    ("--progress loud", "--progress loud: choose from"),
    ("--allow-outside nothing", "--allow-outside nothing: no such folder"),
    ("--cfg-options novalue", "--cfg-options novalue: write key=value"),
    ("--cfg-options =1", "--cfg-options =1: write key=value"),
    ("--batchsize 4", "--batch-size"),
    ("--seed", "--seed needs a value"),
    ("extra words", "unexpected argument 'extra'"),
)
OTHERS: tuple[tuple[str, str], ...] = (
    ("", "give a verb"),
    ("tain", "unknown verb 'tain'; did you mean"),
    ("train", "CONFIG is missing"),
    ("train no/such_config", "no config 'no/such_config'"),
    (f"train {CONFIG} --data-path nothing", "--data-path nothing: no such file or folder"),
    (f"eval {CONFIG} nothing.pth", "checkpoint nothing.pth: no such file"),
    (f"eval {CONFIG} README.md --split all", "--split all: choose from train, val, test"),
    (f"eval {CONFIG} README.md --out r.pkl", "--out r.pkl: the numbers are written as JSON"),
    (f"eval {CONFIG} README.md --show-score-thr 2", "--show-score-thr 2"),
)
RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
ENVIRONMENTS: tuple[tuple[dict[str, str], str], ...] = (
    ({"FCOS_DIST_TIMEOUT": "ten"}, "FCOS_DIST_TIMEOUT='ten': must be seconds"),
    ({"FCOS_DIST_TIMEOUT": "0"}, "FCOS_DIST_TIMEOUT='0': must be seconds, above 0"),
    ({"FCOS_DIST_TIMEOUT": "-5"}, "FCOS_DIST_TIMEOUT='-5': must be seconds, above 0"),
    ({"FCOS_DIST_TIMEOUT": "nan"}, "FCOS_DIST_TIMEOUT='nan': must be seconds, above 0"),
    ({"FCOS_DIST_BACKEND": "pigeon"}, "FCOS_DIST_BACKEND='pigeon': torch knows"),
    ({"RANK": "one"}, "RANK='one': must be a whole number"),
    ({"RANK": "7"}, "RANK=7: must be below WORLD_SIZE"),
    ({"MASTER_PORT": "99999"}, "MASTER_PORT='99999': must be a whole number from 1 to 65535"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0': must be a whole number of at least 1"),
)


def _training(words: str):
    return lambda room: ["train", CONFIG, "--data-path", str(room.shapes), *words.split()]


def _as_rank(room: Room) -> list[str]:
    return room.train("--launcher", "pytorch")


def _one(number: str) -> str:
    return number if len(number) < 30 else f"{number[:30]}..."


CASES = [
    *(Case(f"train {_one(words)}", _training(words), (says,)) for words, says in TRAIN_FLAGS),
    *(Case(f"fcos-train {words}", lambda room, words=words: words.split(), (says,)) for words, says in OTHERS),
]
ENVIRONMENT = [
    Case(" ".join(f"{key}={value}" for key, value in given.items()), _as_rank, (says,), environment={**RANK, **given})
    for given, says in ENVIRONMENTS
]
