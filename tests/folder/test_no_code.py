"""A folder may bring Python along: none of it runs, and nobody is asked whether to run it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kblam import KnowledgeBase, ask, attach
from kblam.errors import GenerationError, ModelFolderError
from kblam.folder import integrate, load_folder
from kblam.models.loading import load_base, load_config, load_tokenizer
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM, FACTS, save_base, tiny_adapter, tiny_model, tiny_tokenizer

CODE = """
from pathlib import Path
from transformers import LlamaForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast
Path({ran!r}).write_text("ran")
class Config(PreTrainedConfig):
    model_type = "brought"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
MODEL = {"AutoConfig": "brought.Config", "AutoModelForCausalLM": "brought.Model"}
BRINGS_CODE = r"brings code of its own \(auto_map\), and kblam never runs such code"


@pytest.fixture(autouse=True)
def answer_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is told yes, as a person in a hurry does."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """There once the folder's code has run."""
    return tmp_path / "ran"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def brought(tmp_path: Path, ran: Path) -> Path:
    """A model and a tokenizer of classes that only the folder has."""
    folder = save_base(tmp_path / "base")
    (folder / "brought.py").write_text(CODE.format(ran=str(ran)))
    edit(folder / "config.json", model_type="brought", auto_map=MODEL)
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="Tokenizer",
        auto_map={"AutoTokenizer": [None, "brought.Tokenizer"]},
    )
    return folder


@pytest.mark.parametrize("load", [load_config, load_base, load_tokenizer])
def test_a_folder_that_needs_its_own_code_is_refused(load: Callable[[Path], object], brought: Path, ran: Path) -> None:
    with pytest.raises(ModelFolderError, match=BRINGS_CODE):
        load(brought)
    assert not ran.exists()


@pytest.mark.parametrize("load", [load_config, load_base])
def test_a_family_that_transformers_has_loads_without_the_folders_code(
    load: Callable[[Path], object], brought: Path, ran: Path
) -> None:
    """As Phi-3 does on the hub, whose config still names the code it came with."""
    edit(brought / "config.json", model_type="llama")
    assert load(brought) is not None
    assert not ran.exists()


@pytest.mark.parametrize("load", [load_config, load_base])
@pytest.mark.parametrize("asked", ["somebody/kernel", "kernels-community/flash-attn@main:of", {"": "somebody/kernel"}])
def test_a_kernel_of_the_hub_is_not_loaded(load: Callable[[Path], object], asked: object, tmp_path: Path) -> None:
    """Whether the package that would download it is installed or not."""
    folder = save_base(tmp_path / "base")
    edit(folder / "config.json", attn_implementation=asked)
    with pytest.raises(ModelFolderError, match=r"brings code of its own \(attn_implementation '.*/.*'\)"):
        load(folder)


def test_the_tokenizer_beside_a_model_is_not_run(brought: Path, ran: Path) -> None:
    encoder = HashingEncoder(EMBEDDING_DIM)
    model = tiny_model(tiny_tokenizer())
    attach(model, tiny_adapter(model, encoder))
    model.config._name_or_path = str(brought)
    with (
        KnowledgeBase.from_triples(FACTS, encoder) as kb,
        pytest.raises(GenerationError, match=BRINGS_CODE + ".*pass tokenizer="),
    ):
        ask(model, kb, "motto ?")
    assert not ran.exists()


def test_a_model_folder_is_refused(tmp_path: Path, brought: Path, ran: Path) -> None:
    adapter = tiny_adapter(tiny_model(tiny_tokenizer()), HashingEncoder(EMBEDDING_DIM))
    with KnowledgeBase.from_triples(FACTS, HashingEncoder(EMBEDDING_DIM)) as kb:
        with pytest.raises(ModelFolderError, match=BRINGS_CODE):
            integrate(brought, adapter, kb, tmp_path / "folder")
        whole = integrate(save_base(tmp_path / "plain"), adapter, kb, tmp_path / "folder", include_base=True)
    for part in ("base", "tokenizer"):
        shutil.copytree(brought, whole / part, dirs_exist_ok=True)
        with pytest.raises(ModelFolderError, match=BRINGS_CODE):
            load_folder(whole, device="cpu")
        shutil.copytree(tmp_path / "plain", whole / part, dirs_exist_ok=True)
    assert not ran.exists()


class Runs:
    """What a pickle does when it is read."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.ran),)


def test_a_pickle_beside_the_model_is_not_run(tmp_path: Path, ran: Path) -> None:
    folder = save_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Runs(ran)}, protocol=2))
    with pytest.raises(ModelFolderError, match=r"a pickle that is damaged or holds Python objects.*as safetensors"):
        load_base(folder)
    assert not ran.exists()


MODEL_PARTS = [
    ("model.safetensors", b""),
    ("model.safetensors", b"\xff" * 100),
    ("generation_config.json", b"[1]"),
]
TOKENIZER_PARTS = [
    ("tokenizer.json", b"{}"),
    ("tokenizer.json", b'{"model": 7}'),
    ("tokenizer_config.json", b'{"tokenizer_class": 7}'),
    ("tokenizer_config.json", b"[" * 100_000),
]
CONFIGS = [
    ("config.json", b"[" * 100_000),
    ("config.json", b"[]"),
    ("config.json", b'{"model_type": ["llama"]}'),
    ("config.json", b'{"model_type": "llama", "num_hidden_layers": "x"}'),
]


def _cases(load: Callable[[Path], object], damages: list[tuple[str, bytes]]) -> list[Any]:
    return [pytest.param(load, *damage, id=f"{load.__name__}-{damage[0]}={damage[1][:20]!r}") for damage in damages]


@pytest.mark.parametrize(
    ("load", "name", "content"),
    [
        *_cases(load_config, CONFIGS),
        *_cases(load_base, [*CONFIGS, *MODEL_PARTS]),
        *_cases(load_tokenizer, [*CONFIGS, *TOKENIZER_PARTS]),
    ],
)
def test_whatever_is_wrong_with_a_model_is_one_kind_of_error(
    load: Callable[[Path], object], name: str, content: bytes, tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base")
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"^cannot load the (model|tokenizer of) '.*base': \S"):
        load(folder)


@pytest.mark.parametrize(
    ("load", "name", "content"), [*_cases(load_base, TOKENIZER_PARTS), *_cases(load_tokenizer, MODEL_PARTS)]
)
def test_what_a_loader_does_not_read_may_be_damaged(
    load: Callable[[Path], object], name: str, content: bytes, tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base")
    (folder / name).write_bytes(content)
    assert load(folder) is not None


@pytest.mark.parametrize("lost", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_a_model_that_lacks_a_weight_is_refused_not_filled_with_random_numbers(lost: str, tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=rf"lacks weights \(1: {lost}\), which would be random numbers; save or"):
        load_base(folder)


def test_tied_weights_that_a_checkpoint_has_once_are_not_missed(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", tie_word_embeddings=True)
    model = load_base(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(model.lm_head.weight.cpu(), weights["model.embed_tokens.weight"], rtol=0, atol=0)
