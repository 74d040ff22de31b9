"""The language model of GLIP and Grounding DINO: a folder, a file of the cache, the Hub, or one clear line."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from fcos_train.config import language
from fcos_train.config.language import is_there, require_language_models
from mmcv_overrides.errors import UserError


class Unreachable(OSError):
    """What huggingface_hub raises without a network."""


@pytest.fixture
def hub(monkeypatch):
    """A Hub without a network and with one model in its cache; the list of what was asked for."""
    asked: list[str] = []

    def download(name, file):
        asked.append(name)
        raise Unreachable(f"{name}/{file}")

    errors = SimpleNamespace(
        HfHubHTTPError=Unreachable, HFValidationError=Unreachable, LocalEntryNotFoundError=Unreachable
    )
    cached = {("bert-base-cased", "config.json"): "/cache/config.json"}
    module = SimpleNamespace(
        hf_hub_download=download, try_to_load_from_cache=lambda *key: cached.get(key), errors=errors
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    is_there.cache_clear()
    yield asked
    is_there.cache_clear()


PARTS = {
    "language model": (
        {"language_model": {"type": "BertModel", "name": "bert-x"}},
        "BertModel .*'bert-x'.*name=FOLDER",
    ),
    "default of mmdet": ({"type": "mmdet.BertModel"}, "BertModel needs the language model 'bert-base-uncased'"),
    "head": ([{"type": "ATSSVLFusionHead", "lang_model_name": "bert-x"}], "ATSSVLFusionHead .*lang_model_name=FOLDER"),
    "transform": ({"type": "RandomSamplingNegPos", "tokenizer_name": "bert-x"}, "RandomSamplingNegPos .*'bert-x'"),
}


@pytest.mark.parametrize("row", PARTS)
def test_a_model_that_is_nowhere_is_named(row, hub):
    node, message = PARTS[row]
    with pytest.raises(UserError, match=message):
        require_language_models(node)
    assert len(hub) == 1


def test_folder_and_cache_ask_for_no_download(hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    require_language_models(
        {"type": "BertModel", "name": str(tmp_path)}, {"type": "BertModel", "name": "bert-base-cased"}
    )
    assert hub == []


def test_a_folder_without_a_model(hub, tmp_path):
    with pytest.raises(UserError, match="neither a folder with a config.json"):
        require_language_models({"type": "BertModel", "name": str(tmp_path)})
    assert hub == []


def test_offline_means_offline(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not language.is_there("bert-x") and hub == []
