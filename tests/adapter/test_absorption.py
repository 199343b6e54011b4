"""Absorbed projections give what projecting and then attending gives: exact as algebra, so to 1e-10 in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam_kernels import LatentKnowledge, UnsupportedInputError
from kblam_kernels.latent import AbsorbedAdapter, absorb, narrowed

CONFIGS = {
    # 6 % 3 == 0: the last slot is read by no layer, yet it counts in the key norm.
    "linear, unused slot": {"embedding_dim": 24, "num_layers": 6, "layer_frequency": 3},
    "linear, every slot used": {"embedding_dim": 40, "num_layers": 5, "layer_frequency": 2},
    "fewer outputs than latents": {"embedding_dim": 200, "num_layers": 2, "layer_frequency": 3},
    "mlp without hidden layers": {
        "embedding_dim": 20,
        "num_layers": 4,
        "layer_frequency": 2,
        "projector": "mlp",
        "mlp_hidden_dim": 32,
    },
    "mlp": {
        "embedding_dim": 20,
        "num_layers": 6,
        "layer_frequency": 2,
        "projector": "mlp",
        "mlp_hidden_dim": 36,
        "mlp_depth": 2,
    },
}
HEADS, HEAD_DIM = 4, 12


def make_adapter(options: dict, dtype: torch.dtype = torch.float64) -> KnowledgeAdapter:
    torch.manual_seed(7)
    adapter = KnowledgeAdapter(AdapterConfig(hidden_size=16, num_heads=HEADS, head_dim=HEAD_DIM, **options))
    with torch.no_grad():
        for projector in (adapter.key_projector, adapter.value_projector):
            last = last_linear(projector)
            # Means that must not cancel: of the outputs, and of the bias.
            last.weight += torch.randn(last.in_features)
            last.bias += 3.0
    return adapter.to(dtype).requires_grad_(False)


def last_linear(projector: nn.Module) -> nn.Linear:
    layer = projector if isinstance(projector, nn.Linear) else projector[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def latents_of(projector: nn.Module, embeddings: Tensor) -> Tensor:
    """The embeddings themselves; of an MLP its last hidden activation."""
    return embeddings if isinstance(projector, nn.Linear) else projector[:-1](embeddings)


def absorb_adapter(adapter: KnowledgeAdapter, **options) -> AbsorbedAdapter:
    key, value = last_linear(adapter.key_projector), last_linear(adapter.value_projector)
    return absorb(
        key.weight,
        key.bias,
        value.weight,
        value.bias,
        num_slots=adapter.config.num_slots,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        **options,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_absorbed_attention_is_the_projected_one(name: str) -> None:
    adapter = make_adapter(CONFIGS[name])
    M, P = 70, adapter.config.embedding_dim
    embedded = torch.randn(2, M, P, dtype=torch.float64)
    projected = adapter.project(embedded[0], embedded[1])
    absorbed = absorb_adapter(adapter)
    key = latents_of(adapter.key_projector, embedded[0])
    value = latents_of(adapter.value_projector, embedded[1])
    norm = absorbed.key_norm(key)
    r = torch.randn(3, HEADS, 5, HEAD_DIM, dtype=torch.float64)
    assert len(absorbed.slots) == adapter.config.num_slots
    for layer in adapter.config.knowledge_layers:
        dense, slot = projected.layer(layer), absorbed.slots[adapter.config.slot_of(layer)]
        expected_scores = torch.einsum("bhnd,hmd->bhnm", r, dense.key)
        absorbed_query = torch.einsum("bhnd,hdp->bhnp", r, slot.key_weight)
        constant = torch.einsum("bhnd,hd->bhn", r, slot.key_bias)
        scores = norm * (absorbed_query @ key.T + constant[..., None])
        torch.testing.assert_close(scores, expected_scores, rtol=1e-10, atol=1e-10)

        p = expected_scores.softmax(-1) * 0.7  # the prompt has the rest
        mixed = torch.einsum("bhnp,hdp->bhnd", p @ value, slot.value_weight)
        output = mixed + p.sum(-1)[..., None] * slot.value_bias[:, None]
        torch.testing.assert_close(output, p @ dense.value, rtol=1e-10, atol=1e-10)

        materialised = LatentKnowledge(key, value, norm, slot).to_dense()
        torch.testing.assert_close(materialised.key, dense.key, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(materialised.value, dense.value, rtol=1e-10, atol=1e-10)


def test_a_narrowed_projection_gives_what_the_wide_one_gives() -> None:
    torch.manual_seed(0)
    weight, latents = torch.randn(12, 30), torch.randn(7, 30, dtype=torch.float64)
    narrow, basis = narrowed(weight)
    assert (narrow.shape, basis.shape, narrow.dtype) == ((12, 12), (30, 12), torch.float64)
    torch.testing.assert_close(latents @ basis @ narrow.T, latents @ weight.double().T, rtol=1e-12, atol=1e-12)
    # Orthonormal: a row's numbers are no larger than before, so quantising them costs no more.
    torch.testing.assert_close(basis.T @ basis, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_changed_row_alone_has_the_norm_it_has_among_others() -> None:
    adapter = make_adapter(CONFIGS["linear, unused slot"], torch.float32)
    key_norm = absorb_adapter(adapter).key_norm
    latents = torch.randn(50, 24)
    latents[31] = torch.randn(24) * 4
    alone = key_norm(latents[31:32])
    torch.testing.assert_close(alone, key_norm(latents)[31:32], rtol=1e-6, atol=0)
    torch.testing.assert_close(alone.double(), key_norm(latents[31:32].double()), rtol=1e-6, atol=0)


def test_the_norm_is_float32_and_may_accumulate_in_float64() -> None:
    # Latents far from the origin: W e + b is the difference of large numbers, where float32 products lose digits.
    adapter = make_adapter(CONFIGS["linear, unused slot"], torch.float32)
    linear = last_linear(adapter.key_projector)
    latents = 2000 + torch.randn(40, 24)
    with torch.no_grad():
        linear.bias -= linear(torch.full((24,), 2000.0))
    key_norm = absorb_adapter(adapter).key_norm
    exact = key_norm(latents.double())
    plain, careful = key_norm(latents), key_norm(latents, accumulate=torch.float64)
    assert plain.dtype == careful.dtype == torch.float32
    torch.testing.assert_close(careful.double(), exact, rtol=1e-7, atol=0)
    assert (plain.double() / exact - 1).abs().max() > 1e-6


def test_a_constant_key_has_the_norm_of_eps() -> None:
    adapter = make_adapter(CONFIGS["linear, every slot used"])
    linear = last_linear(adapter.key_projector)
    with torch.no_grad():
        linear.bias.fill_(0.3)
    norm = absorb_adapter(adapter).key_norm(torch.zeros(1, 40, dtype=torch.float64))
    torch.testing.assert_close(norm, torch.full_like(norm, 1e-5**-0.5), rtol=1e-9, atol=0)


def test_projections_without_bias_and_in_the_model_dtype() -> None:
    adapter = make_adapter(CONFIGS["linear, unused slot"], torch.float32)
    key, value = last_linear(adapter.key_projector), last_linear(adapter.value_projector)
    shape = {"num_slots": 3, "num_heads": HEADS, "head_dim": HEAD_DIM}
    absorbed = absorb(key.weight, None, value.weight, None, dtype=torch.bfloat16, **shape)
    slot = absorbed.slots[1]
    assert slot.key_weight.dtype == slot.value_bias.dtype == torch.bfloat16
    assert (slot.num_heads, slot.head_dim, slot.width) == (HEADS, HEAD_DIM, 24)
    assert not slot.key_bias.any()
    assert not slot.value_bias.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_weight": torch.zeros(143, 24)}, r"key_weight must be \(slots \* heads \* head_dim = 144, P\)"),
        ({"value_bias": torch.zeros(3)}, r"value_bias must be \(144,\)"),
        ({"value_weight": torch.zeros(144, 25)}, "one latent width; got 24 and 25"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    weights = {
        "key_weight": torch.zeros(144, 24),
        "key_bias": None,
        "value_weight": torch.zeros(144, 24),
        "value_bias": None,
    }
    with pytest.raises(UnsupportedInputError, match=message):
        absorb(**(weights | change), num_slots=3, num_heads=HEADS, head_dim=HEAD_DIM)
