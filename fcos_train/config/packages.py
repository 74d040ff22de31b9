"""Optional packages: found from the config before anything is built, and named with the line that installs them.

mmdet and mmengine import them late, some in the first step of a training, and say so in many ways.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mmengine.config import Config
from packaging.requirements import Requirement

from fcos_train.config.language import require_language_models
from fcos_train.config.load import walk
from mmcv_overrides.errors import UserError

PANOPTIC = "git+https://github.com/cocodataset/panopticapi.git"
MMPRETRAIN = "onedl-mmpretrain"
# Module -> (what pip installs, the parts of a config that need it).
PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "albumentations": ("albumentations>=2", ("Albu",)),  # mmdet passes `strict` to Compose
    "instaboostfast": ("instaboostfast", ("InstaBoost",)),
    "sklearn": ("scikit-learn", ("PAA", "PAAHead", "LAD", "LADHead")),
    "transformers": (
        "transformers<4.54",  # later ones lack apply_chunking_to_forward in modeling_utils, 5 batch_encode_plus too
        ("BertModel", "GLIP", "GroundingDINO", "GroundingDINOHead", "ATSSVLFusionHead", "RandomSamplingNegPos"),
    ),
    "panopticapi": (PANOPTIC, ("CocoPanopticMetric", "LoadPanopticAnnotations")),
    "cityscapesscripts": ("cityscapesscripts", ("CityScapesMetric",)),
    "lvis": ("lvis", ("LVISMetric", "LVISFixedAPMetric", "LVISDataset", "LVISV05Dataset", "LVISV1Dataset")),
    "mmpretrain": (MMPRETRAIN, ("LinearReIDHead", "BaseReID")),
    "detectron2": ("git+https://github.com/facebookresearch/detectron2.git", ("Detectron2Wrapper",)),
    "pycocoevalcap": ("pycocoevalcap", ("COCOCaptionMetric",)),
    "jsonlines": ("jsonlines", ("DumpODVGResults",)),
    "d_cube": ("ddd-dataset", ("DODDataset",)),
    "dsdl": ("dsdl", ("DSDLDetDataset",)),
    "trackeval": ("git+https://github.com/JonathonLuiten/TrackEval.git", ("MOTChallengeMetric",)),
    "memory_profiler": ("memory_profiler", ("MemoryProfilerHook",)),
    "wandb": ("wandb", ("WandbVisBackend",)),
    "mlflow": ("mlflow", ("MLflowVisBackend",)),
    "clearml": ("clearml", ("ClearMLVisBackend",)),
    "neptune": ("neptune", ("NeptuneVisBackend",)),
    "dvclive": ("dvclive", ("DVCLiveVisBackend",)),
    "aim": ("aim", ("AimVisBackend",)),
}
NEEDS = {part: module for module, (_, parts) in PACKAGES.items() for part in parts}
# Settings that need a package when they are on: activation checkpointing of transformers, RoIAlign of torchvision.
SETTINGS = {"num_cp": "fairscale"}
# Scope of a part, as in ``mmpretrain.ConvNeXt`` -> module.
SCOPES = {"mmpretrain": "mmpretrain", "mmcls": "mmpretrain"}
# Modules that are imported under another name than that of their distribution, or come with one.
DISTRIBUTIONS = {
    **{module: pip for module, (pip, _) in PACKAGES.items()},
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "fairscale": "fairscale",
    "torchvision": "torchvision",
    "timm": "timm",
}
# What a package needs but does not declare, or would install in a version that needs another torch.
NEEDS_TOO = {"mmpretrain": ("torchvision",), "timm": ("torchvision",)}
# What pip must be told: instaboostfast would install a second OpenCV over the first, detectron2 is built with torch.
FLAGS = {"instaboostfast": "--no-deps", "detectron2": "--no-build-isolation"}
# Sections of a config that a run builds, and those that only a training or only an evaluation builds.
BUILT = ("model", "default_hooks", "custom_hooks", "visualizer")
TRAINED = ("train_dataloader", "val_dataloader", "val_evaluator")
TESTED = ("test_dataloader", "test_evaluator")
SAYS_SO = re.compile(r"not installed|pip install|please install", re.IGNORECASE)
PIP = re.compile(r"pip install ['\"]?([\w.\[\]+:/=<>-]*[\w\]])")


def is_installed(module: str) -> bool:
    """Whether a top-level module could be imported."""
    return importlib.util.find_spec(module) is not None


def needed_by(part: dict[str, Any]) -> str | None:
    """The optional module that one dict of a config needs to be built or run; None if there is none."""
    kind = str(part.get("type", ""))
    scope, _, name = kind.rpartition(".")
    if scope in SCOPES or part.get("_scope_") in SCOPES:
        return SCOPES.get(scope) or SCOPES[str(part["_scope_"])]
    asked = next((module for key, module in SETTINGS.items() if part.get(key)), None)
    return asked or NEEDS.get(name)


def require_packages(*nodes: Any) -> None:
    """Refuse parts of a config that need packages that are not installed, or not in a version that mmdet works with.

    Args:
        nodes: what is going to be built.

    Raises:
        UserError: the message has every package, the part that needs it and one line that installs them all; or a
            language model that is not on this machine, see :func:`.language.require_language_models`.
    """
    lacking: dict[str, str] = {}
    others: dict[str, str] = {}
    for part in walk(nodes):
        module = needed_by(part)
        if module is None:
            continue
        name = str(part.get("type") or ", ".join(key for key in SETTINGS if part.get(key)))
        if not is_installed(module):
            lacking.setdefault(module, name)
        elif unfit := _unfit(module, part):
            others.setdefault(module, f"{name} needs {unfit}")
    if lacking:
        who = ", ".join(f"{part} needs {module}" for module, part in lacking.items())
        raise UserError(f"{who}, which is not installed: {install_line(*lacking)}")
    if others:
        raise UserError(f"{', '.join(others.values())}: {install_line(*others)}")
    require_language_models(*nodes)


def _unfit(module: str, part: dict[str, Any]) -> str:
    """What is wrong with the installed version of a package for a part of a config; empty if nothing is known."""
    if module == "albumentations":
        names = {str(one.get("type")) for one in walk(part.get("transforms"))} - {"None"}
        absent = sorted(name for name in names if not hasattr(importlib.import_module(module), name))
        if absent:
            return f"{', '.join(absent)}, which albumentations {version(module)} lacks"
    wanted = Requirement(DISTRIBUTIONS[module]) if "+" not in DISTRIBUTIONS[module] else None
    try:
        found = version(wanted.name) if wanted and wanted.specifier else None
    except PackageNotFoundError:
        return ""
    return f"{wanted} ({found} is installed)" if wanted and found and found not in wanted.specifier else ""


def require_packages_of_run(cfg: Config) -> None:
    """:func:`require_packages` for what a training, or an evaluation, builds; sections that are None do not count."""
    data = TRAINED if cfg.get("train_dataloader") is not None else TESTED
    require_packages(*(cfg.get(section) for section in (*BUILT, *data)))


def install_line(*modules: str) -> str:
    """``pip install ...`` for modules, by the name of their distribution, with what keeps the installed torch.

    Modules that need a flag of pip get a command of their own.
    """
    commands: dict[str, list[str]] = defaultdict(list)
    for module in dict.fromkeys(extra for one in modules for extra in (one, *NEEDS_TOO.get(one, ()))):
        commands[FLAGS.get(module, "")].append(_requirement(module))
    return " && ".join(
        " ".join(("pip install", *([flag] if flag else []), *map(shlex.quote, wanted)))
        for flag, wanted in commands.items()
    )


def _requirement(module: str) -> str:
    """What pip is asked for; of torchvision the version made for the installed torch (0.15 for 2.0, and so on)."""
    wanted = DISTRIBUTIONS.get(module, module)
    if module != "torchvision":
        return wanted
    torch = re.match(r"2\.(\d+)", version("torch"))
    return f"torchvision==0.{int(torch[1]) + 15}.*" if torch else wanted


@contextmanager
def missing_packages_named() -> Iterator[None]:
    """A package that turns out to be missing within ends in one line that says how to install it.

    For what :func:`require_packages` cannot know: parts of the user, imports within functions. Other exceptions pass.

    Raises:
        UserError: an import failed, or an exception says that something is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(f"a package is missing: {said_by(error)}") from error
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        if not SAYS_SO.search(str(error)) and not is_of_packages(error):
            raise
        raise UserError(f"a package is missing: {said_by(error)}") from error


def is_of_packages(error: BaseException) -> bool:
    """Whether an exception comes from a package that is missing, or that is not built for this torch."""
    return isinstance(error, ImportError) or "torchvision::" in str(error)


def said_by(error: BaseException) -> str:
    """What an exception says of a missing package, in one line that ends with the command that installs it."""
    absent = next((one for one in _chain(error) if isinstance(one, ImportError) and _absent(one)), None)
    text = " ".join(str(absent or error).split()).rstrip(".")
    if "torchvision::" in text:  # its operators did not load
        return (
            f"torchvision {version('torchvision')} is not built for torch {version('torch')} ({text}). Install it from "
            f"where torch came from, with its --index-url: {install_line('torchvision')}"
        )
    if absent is not None:
        return f"{text}: {install_line(_absent(absent))}"
    bare = re.search(r"(\w+) is not installed", text)
    return text if PIP.search(text) or not bare else f"{text}: {install_line(bare.group(1))}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was raised from, the first cause first."""
    earlier = error.__cause__ or error.__context__
    if earlier is not None:
        yield from _chain(earlier)
    yield error


def _absent(error: ImportError) -> str:
    """The top-level module that an import did not find; empty where the module is there, but not a name in it."""
    module = (error.name or "").partition(".")[0]
    return "" if not module or is_installed(module) else module
