"""Projectors that are not just their weights: tied, wrapped, hooked, parametrised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn
from torch.nn.utils import parametrizations

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.errors import AdapterError, AdapterFormatError


def make(**changes: Any) -> KnowledgeAdapter:
    torch.manual_seed(0)
    shapes = {"embedding_dim": 10, "hidden_size": 12, "num_layers": 4, "num_heads": 3, "head_dim": 4}
    return KnowledgeAdapter(AdapterConfig(**{**shapes, "layer_frequency": 2, **changes})).eval()


class Wrapped(nn.Module):
    """What a LoRA makes of a linear layer."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.a, self.b = nn.Linear(base_layer.in_features, 2), nn.Linear(2, base_layer.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.b(self.a(x))


def tie_modules(adapter: KnowledgeAdapter) -> None:
    adapter.value_projector = adapter.key_projector


def tie_weights(adapter: KnowledgeAdapter) -> None:
    adapter.value_projector.weight = adapter.key_projector.weight


@pytest.mark.parametrize("tie", [tie_modules, tie_weights])
@pytest.mark.parametrize("older", [False, True], ids=["whole", "as the mixin wrote it"])
def test_tied_projectors_come_back_tied(tie: Any, older: bool, tmp_path: Path) -> None:
    adapter = make()
    tie(adapter)
    adapter.save_pretrained(tmp_path)
    if older:
        save_model(adapter, str(tmp_path / "model.safetensors"))
        assert "value_projector.weight" not in load_file(tmp_path / "model.safetensors")
    again = KnowledgeAdapter.from_pretrained(tmp_path)
    assert again.value_projector.weight is again.key_projector.weight
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_weights_that_lie_in_one_memory_are_saved_as_they_are(tmp_path: Path) -> None:
    adapter = make(embedding_dim=36)
    adapter.value_projector.weight = nn.Parameter(adapter.key_projector.weight.detach().t())
    adapter.save_pretrained(tmp_path)
    again = KnowledgeAdapter.from_pretrained(tmp_path)
    assert torch.equal(again.value_projector.weight, adapter.key_projector.weight.t())


def wrap(adapter: KnowledgeAdapter) -> None:
    adapter.value_projector = Wrapped(adapter.value_projector)


def parametrise(adapter: KnowledgeAdapter) -> None:
    parametrizations.weight_norm(adapter.key_projector)


@pytest.mark.parametrize("change", [wrap, parametrise])
def test_what_could_not_be_loaded_is_not_saved(change: Any, tmp_path: Path) -> None:
    adapter = make()
    change(adapter)
    with pytest.raises(AdapterError, match=r"could not be loaded again .*merge what wraps its layers"):
        adapter.save_pretrained(tmp_path)


def hook(adapter: KnowledgeAdapter) -> None:
    adapter.key_projector.register_forward_hook(lambda module, args, output: -output)


def override(adapter: KnowledgeAdapter) -> None:
    adapter.key_projector.forward = lambda x: x.new_zeros(*x.shape[:-1], adapter.config.out_dim)


@pytest.mark.parametrize("change", [wrap, parametrise, hook, override])
def test_only_a_plain_linear_layer_is_absorbed(change: Any) -> None:
    adapter = make()
    assert adapter.is_absorbable
    change(adapter)
    assert not adapter.is_absorbable


def test_a_wrapped_question_head_is_called() -> None:
    adapter = make(question_head="linear")
    question = torch.randn(2, 10)
    plain = adapter.question_part(0, question)
    wrapped = Wrapped(adapter.question_heads["0"])
    adapter.question_heads["0"] = wrapped
    added = wrapped.b(wrapped.a(question)).reshape(plain.shape)
    assert added.abs().max() > 0.1
    torch.testing.assert_close(adapter.question_part(0, question), plain + added)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_not_loaded(number: float, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["key_projector.weight"][3, 3] = number
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(AdapterFormatError, match=r"holds NaN or infinity, in key_projector\.weight"):
        KnowledgeAdapter.from_pretrained(tmp_path)


def test_the_config_that_is_saved_is_the_one_in_force(tmp_path: Path) -> None:
    import dataclasses

    adapter = make()
    adapter.config = dataclasses.replace(adapter.config, known_above=0.4)
    adapter.save_pretrained(tmp_path)
    assert KnowledgeAdapter.from_pretrained(tmp_path).config.known_above == 0.4
