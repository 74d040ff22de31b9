"""Optional packages: found from the config before anything is built, and named with the line that installs them.

mmdet and mmengine import them late, some in the first step of a training, and say so in many ways.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config

from fcos_train.config.load import walk
from mmcv_overrides.errors import UserError

PANOPTIC = "git+https://github.com/cocodataset/panopticapi.git"
MMPRETRAIN = "onedl-mmpretrain"
# Module -> (what pip installs, the parts of a config that need it).
PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "albumentations": ("albumentations", ("Albu",)),
    "instaboostfast": ("instaboostfast", ("InstaBoost",)),
    "sklearn": ("scikit-learn", ("PAA", "PAAHead", "LAD", "LADHead")),
    "transformers": (
        "transformers",
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
    """Refuse parts of a config that need packages that are not installed.

    Args:
        nodes: what is going to be built.

    Raises:
        UserError: the message has every package, the part that needs it and one line that installs them all.
    """
    lacking: dict[str, str] = {}
    for part in walk(nodes):
        module = needed_by(part)
        if module is not None and not is_installed(module):
            lacking.setdefault(module, str(part.get("type") or ", ".join(key for key in SETTINGS if part.get(key))))
    if lacking:
        who = ", ".join(f"{part} needs {module}" for module, part in lacking.items())
        raise UserError(f"{who}, which is not installed: {install_line(*lacking)}")


def require_packages_of_run(cfg: Config) -> None:
    """:func:`require_packages` for what a training, or an evaluation, builds; sections that are None do not count."""
    data = TRAINED if cfg.get("train_dataloader") is not None else TESTED
    require_packages(*(cfg.get(section) for section in (*BUILT, *data)))


def install_line(*modules: str) -> str:
    """``pip install ...`` for modules, by the name of their distribution."""
    return "pip install " + " ".join(DISTRIBUTIONS.get(module, module) for module in modules)


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
        if not SAYS_SO.search(str(error)):
            raise
        raise UserError(f"a package is missing: {said_by(error)}") from error


def said_by(error: BaseException) -> str:
    """What an exception says of a missing package, in one line that ends with the command that installs it."""
    absent = next((one for one in _chain(error) if isinstance(one, ImportError) and _absent(one)), None)
    text = " ".join(str(absent or error).split()).rstrip(".")
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
