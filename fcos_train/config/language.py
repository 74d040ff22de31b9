"""The language model of a detector that reads text (GLIP, Grounding DINO): its files are found before a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from fcos_train.config.load import walk
from mmcv_overrides.errors import UserError

# Part of a config -> the key with the name of a language model, which transformers looks up.
NAMED_BY = {"BertModel": "name", "ATSSVLFusionHead": "lang_model_name", "RandomSamplingNegPos": "tokenizer_name"}
CONFIG = "config.json"  # the smallest file of a model


def require_language_models(*nodes: Any) -> None:
    """Refuse parts whose language model is neither a folder, nor in the cache of the Hub, nor can be downloaded.

    transformers would try for half a minute, in every process of a run, and then raise an exception of many lines.

    Args:
        nodes: what is going to be built.

    Raises:
        UserError: the message has the part, the name of the model, and how to give its files.
    """
    for part, key, name in _named(nodes):
        if not is_there(name):
            raise UserError(
                f"{part} needs the language model '{name}', which is neither a folder with a {CONFIG} nor in the cache "
                "of the Hugging Face Hub, and the Hub does not answer. Put its files (config.json, vocab.txt, "
                f"model.safetensors) into a folder and name that: {key}=FOLDER wherever the config has '{name}' "
                "(in mmdet's: lang_model_name)"
            )


def _named(nodes: Any) -> Iterator[tuple[str, str, str]]:
    """Part, key and name of every language model below the nodes."""
    for part in walk(nodes):
        kind = str(part.get("type", "")).rpartition(".")[2]
        key = NAMED_BY.get(kind)
        if key is not None:
            yield kind, key, str(part.get(key, "bert-base-uncased"))  # mmdet's default


@lru_cache
def is_there(name: str) -> bool:
    """Whether transformers will find a language model: in a folder, in its cache, or on the Hub."""
    if (Path(name) / CONFIG).is_file():
        return True
    if Path(name).is_dir():
        return False
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, CONFIG), str):
            return True
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
            return False
        hf_hub_download(name, CONFIG)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return False
    return True
