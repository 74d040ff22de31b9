"""Try one config of mmdet in this process: train, resume, draw, export. Prints nothing; writes one JSON object.

    python scripts/model_trial.py CONFIG DATA FOLDER         # all steps
    python scripts/model_trial.py CONFIG DATA FOLDER export  # only the export, of the model with random weights

``FOLDER`` receives the shrunk config, one log per step and ``trial.json``. :mod:`try_models` starts one such process
per family, with limits of time and memory.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcv_overrides.errors import UserError

SIDE = 96  # px
ITERATIONS = 2
CORNER_SIDE = 127  # px; an hourglass halves (side + 1) seven times
BASE_SIZES = {"RandomCenterCropPad": CORNER_SIDE}
# Keys of transforms and of batch augmentations whose value is a size in px, or a list of them.
SIZES = ("scale", "scales", "img_scale", "crop_size", "size", "random_size_range", "random_sizes", "resize_scale")
# Numbers of boxes that a detector keeps or samples, and the most that are needed at this size.
CHANNELS = (256, 512, 1024, 2048)  # of the stages of ResNet-50 and 101
MOST = {"nms_pre": 200, "max_per_img": 100, "num": 64}
# Families whose export docs/deployment.md promises; two whose refusal must give the reason. The others are exported
# from random weights, in a trial of its own.
EXPORTED = ("fcos", "fsaf", "retinanet", "faster_rcnn", "cascade_rcnn", "mask_rcnn", "rpn")
FIXED_INPUT = ("SSDVGG", "SSDHead")  # anchors and layers are those of the input size


def shrink(node: Any, side: int = SIDE) -> None:
    """Replace in place every image size below ``node`` (a config, or a part of it) by ``side`` px."""
    if isinstance(node, dict):
        own = BASE_SIZES.get(str(node.get("type")), side)
        for key, value in node.items():
            if key in SIZES and "type" in node:
                node[key] = _small(value, own)
            else:
                shrink(value, own if key == "transforms" else side)
    elif isinstance(node, (list, tuple)):
        for value in node:
            shrink(value, side)


def thin_out(node: Any) -> None:
    """Lower in place the numbers of boxes in a model's ``train_cfg`` and ``test_cfg``: fewer RoIs, the same code."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in MOST and isinstance(value, int):
                node[key] = min(value, MOST[key])
            else:
                thin_out(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            thin_out(value)


def slim(model: Any) -> None:
    """Give a plain ResNet a quarter of its channels in place, where only the first neck reads them."""
    backbone = model.get("backbone")
    neck = model.get("neck")
    first = neck[0] if isinstance(neck, (list, tuple)) else neck
    if not isinstance(backbone, dict) or not isinstance(first, dict) or backbone.get("type") != "ResNet":
        return
    channels = first.get("in_channels")
    usual = isinstance(channels, list) and set(channels) <= set(CHANNELS) and backbone.get("depth") in (50, 101)
    if usual and backbone.get("plugins") is None and (backbone.get("norm_cfg") or {}).get("type") in ("BN", "SyncBN"):
        backbone["base_channels"] = 16
        first["in_channels"] = [count // 4 for count in channels]


def _small(value: Any, side: int) -> Any:
    """A size, a range of sizes or a list of sizes with every number of pixels replaced; factors stay."""
    if isinstance(value, (list, tuple)):
        return type(value)(_small(one, side) for one in value)
    return side if isinstance(value, int) and not isinstance(value, bool) and value > side else value


def has(node: Any, types: tuple[str, ...]) -> bool:
    """Whether a part of one of these types is in a config."""
    if isinstance(node, dict):
        return node.get("type") in types or any(has(value, types) for value in node.values())
    return isinstance(node, (list, tuple)) and any(has(value, types) for value in node)


def small_config(name: str, path: Path) -> None:
    """Write a config of mmdet with small images to ``path``."""
    from fcos_train.config.load import load_config

    cfg = load_config(f"mmdet::{name}")
    if not has(cfg.get("model"), FIXED_INPUT):
        for key in [key for key in cfg if "pipeline" in key or key.endswith("_dataloader") or key == "model"]:
            part = cfg[key] if key != "model" else (cfg.model.get("data_preprocessor") or {})
            shrink(part)
    if isinstance(cfg.model.get("num_queries"), int):  # images of 96 px have fewer positions than 900
        cfg.model.num_queries = min(cfg.model.num_queries, 100)
    slim(cfg.model)
    for key in ("train_cfg", "test_cfg"):
        thin_out(cfg.model.get(key))
    use_tiny_language_model(cfg, path.parent / "bert")
    cfg["load_from"] = None  # like --pretrained none: no weights are downloaded
    cfg.dump(str(path))


def use_tiny_language_model(cfg: Any, folder: Path) -> None:
    """Where transformers is installed: a folder with a BERT of two layers and random weights instead of the Hub's.

    mmdet passes the name on to transformers, which takes folders too.
    """
    from fcos_train.config.language import NAMED_BY
    from fcos_train.config.load import walk
    from fcos_train.config.packages import is_installed

    parts = [part for part in walk(cfg.to_dict()) if str(part.get("type")) in NAMED_BY]
    if not parts or not is_installed("transformers"):
        return
    name = parts[0][NAMED_BY[parts[0]["type"]]]
    make_bert(folder)
    replace_value(cfg._cfg_dict, name, str(folder.resolve()))


def replace_value(node: Any, old: str, new: str) -> None:
    """Replace in place every value ``old`` below a node."""
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
    for key, value in items:
        if value == old:
            node[key] = new
        elif isinstance(value, (dict, list)):
            replace_value(value, old, new)


def make_bert(folder: Path) -> None:
    """Write a BERT of two layers with random weights, and a tokenizer that knows letters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(BertConfig(len(words), num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)).save_pretrained(
        folder
    )


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send all output of this process to a file, that of compiled code too."""
    kept = [os.dup(1), os.dup(2)]
    with path.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, number)
                os.close(saved)


def step(log: Path, words: list[str]) -> dict[str, Any]:
    """One command of ``fcos-train``.

    Returns:
        ``status``: ok, refused (one clear line) or traceback; ``message``: that line, or the exception; ``seconds``.
    """
    from fcos_train.cli.main import main

    start = time.perf_counter()
    with logged(log):
        print(" ".join(["fcos-train", *words]), flush=True)
        try:
            code, message = main(words), ""
        except BaseException as error:  # whatever it is: the trial goes on with the next step
            traceback.print_exc()
            code, message = 1, f"{type(error).__name__}: {error}"
    text = log.read_text(errors="replace")
    if code == 2:
        message = text[text.rfind("\nerror") + 1 :].strip()
    status = {0: "ok", 2: "refused"}.get(code, "traceback")
    if status == "ok" and re.search(r"^Traceback \(most recent call last\)", text, re.MULTILINE):
        status, message = "traceback", "in the log of a step that ended well"
    return {"status": status, "message": message[:600], "seconds": round(time.perf_counter() - start, 1)}


def trial(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """All steps of one config; the first that is not ok ends them. The checkpoints are removed at the end."""
    config, run = folder / "small.py", folder / "run"
    try:
        small_config(name, config)
    except UserError as error:  # as the command would answer
        return {"train": {"status": "refused", "message": f"error: {error}"[:600], "seconds": 0.0}}
    common = ["--data-path", str(data), "--device", "cpu", "--workers", "0", "--seed", "0", "--pretrained", "none"]
    common += ["--work-dir", str(run), "--batch-size", "2", "--opt-level", "O0"]
    if "crowddet" in name:
        common += ["--classes", "square"]  # it knows one class
    image = str(next((data / "val2017").glob("*.jpg")))
    latest = str(run / "latest.pth")
    steps = {
        "train": ["train", str(config), *common, "--max-iters", str(ITERATIONS)],
        "resume": ["train", str(config), *common, "--max-iters", str(ITERATIONS + 1), "--resume", "--no-validate"],
        "demo": ["demo", latest, "--img", image, "--device", "cpu", "--show-dir", str(folder / "drawn")],
        "export": export_words(latest, folder),
    }
    if name.split("/")[0] not in EXPORTED:
        del steps["export"]
    done: dict[str, Any] = {}
    for key, words in steps.items():
        done[key] = step(folder / f"{key}.log", words)
        (folder / "trial.json").write_text(json.dumps(done))
        if key == "train" and done[key]["status"] == "ok":
            done[key] |= validated(folder / "train.log")
        if done[key]["status"] != "ok":
            break
    shutil.rmtree(run, ignore_errors=True)  # some hundred MB
    return done


def export_words(weights: str, folder: Path) -> list[str]:
    """The command of the export; the weights are random, or nearly so."""
    return ["export", weights, "--shape", str(SIDE), "--allow-untrained", "--output-file", str(folder / "model.onnx")]


def export_trial(name: str, folder: Path) -> dict[str, Any]:
    """The export of one config, of a checkpoint that no training wrote."""
    weights = folder / "random.pth"
    try:
        small_config(name, folder / "small.py")
        random_weights(folder / "small.py", weights)
    except UserError as error:  # as the command would answer
        return {"export": {"status": "refused", "message": f"error: {error}"[:600], "seconds": 0.0}}
    done = {"export": step(folder / "export.log", export_words(str(weights), folder))}
    weights.unlink()
    return done


def random_weights(config: Path, path: Path) -> None:
    """Write a checkpoint of a config's model as it is built, with the config in it."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope

    from fcos_train.config.load import load_config
    from fcos_train.config.needs import make_buildable
    from fcos_train.config.packages import require_packages
    from fcos_train.config.vetting import without_pretrained
    from fcos_train.start import start

    start()
    cfg = load_config(str(config))
    require_packages(cfg.model)
    make_buildable(cfg)
    DefaultScope.get_instance("trial", scope_name="mmdet")
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(without_pretrained(cfg.model)))
    torch.save({"state_dict": model.state_dict(), "meta": {"cfg": cfg.pretty_text}}, path)


def validated(log: Path) -> dict[str, Any]:
    """The step fails if the run ended without a validation."""
    found = re.search(r"Epoch\(val\).*|Iter\(val\).*", log.read_text(errors="replace"))
    return {} if found else {"status": "traceback", "message": "the training was not validated"}


def main() -> int:
    """Try the config named on the command line."""
    name, data, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    start = time.perf_counter()
    done = export_trial(name, folder) if sys.argv[4:] == ["export"] else trial(name, data, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # kB -> MB
    result = {"steps": done, "seconds": round(time.perf_counter() - start), "peak_mb": peak}
    (folder / "trial.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
