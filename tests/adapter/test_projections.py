"""From sentence embeddings to knowledge tokens, and from hidden states to knowledge queries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kblam.adapter import AdapterConfig, KnowledgeAdapter, ProjectedKnowledge
from kblam.errors import KnowledgeError

LAYERS, HEADS, WIDTH, P, SLOTS = 4, 3, 8, 10, 3


def config(**changes: Any) -> AdapterConfig:
    shapes = {"embedding_dim": P, "hidden_size": 20, "num_layers": LAYERS, "num_heads": HEADS, "head_dim": WIDTH}
    return AdapterConfig(**{**shapes, "layer_frequency": 2, **changes})


def adapter(**changes: Any) -> KnowledgeAdapter:
    torch.manual_seed(0)
    return KnowledgeAdapter(config(**changes)).double().requires_grad_(False)


def embeddings(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("rows", [(7,), (2, 7)], ids=["shared", "per-row"])
def test_a_projected_triple_is_slot_major_then_head(rows: tuple[int, ...]) -> None:
    a = adapter()
    keys, values = embeddings(*rows, P), embeddings(*rows, P) + 1
    projected = a.project(keys, values)
    assert projected.num_triples == 7
    weight, bias = a.value_projector.weight, a.value_projector.bias
    flat = a.project_keys(keys)
    for layer, slot in ((0, 0), (2, 1)):
        dense = projected.layer(layer)
        assert dense.key.shape == (*rows[:-1], HEADS, 7, WIDTH)
        for head in range(HEADS):
            start = (slot * HEADS + head) * WIDTH
            block = slice(start, start + WIDTH)
            torch.testing.assert_close(dense.value[..., head, :, :], values @ weight[block].T + bias[block])
            assert torch.equal(dense.key[..., head, :, :], flat[..., block])


def test_keys_are_normalised_over_all_slots_together() -> None:
    a = adapter()
    raw = a.key_projector(embeddings(7, P))
    assert raw.shape == (7, SLOTS * HEADS * WIDTH)
    centred = raw - raw.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(a.project_keys(embeddings(7, P)), expected)
    # The slot that no layer reads counts: changing its weights changes the keys of the others.
    before = a.project(embeddings(7, P), embeddings(7, P)).layer(0).key.clone()
    a.key_projector.weight[-HEADS * WIDTH :] *= 3
    assert not torch.allclose(a.project(embeddings(7, P), embeddings(7, P)).layer(0).key, before)


def test_values_are_not_normalised() -> None:
    a = adapter()
    nn.init.zeros_(a.value_projector.bias)
    once, twice = (a.project_values(factor * embeddings(7, P)) for factor in (1, 2))
    torch.testing.assert_close(twice, 2 * once)


def test_a_layer_is_a_view() -> None:
    projected = adapter().project(embeddings(7, P), embeddings(7, P))
    dense = projected.layer(2)
    assert dense.key.untyped_storage().data_ptr() == projected.keys.untyped_storage().data_ptr()
    assert dense.value.stride(-1) == 1


def test_an_identity_projector_adds_no_weights() -> None:
    out = SLOTS * HEADS * WIDTH
    a = adapter(projector="identity", embedding_dim=out, separate_query_head=False)
    assert list(a.parameters()) == []
    vectors = embeddings(7, out)
    projected = a.project(vectors, vectors)
    assert torch.equal(projected.values, vectors)
    torch.testing.assert_close(projected.keys.mean(-1), torch.zeros(7, dtype=torch.float64))


def test_an_mlp_projector_has_upstreams_order() -> None:
    a = adapter(projector="mlp", mlp_depth=2, mlp_hidden_dim=6)
    layers = [type(layer).__name__ for layer in a.value_projector]
    # The first layer has no activation after it.
    assert layers == ["Linear", "Linear", "GELU", "Linear", "GELU", "Linear"]
    x = embeddings(7, P)
    first, second, third, last = (a.value_projector[i] for i in (0, 1, 3, 5))
    gelu = torch.nn.functional.gelu
    torch.testing.assert_close(a.project_values(x), last(gelu(third(gelu(second(first(x)))))))


def test_the_names_of_the_weights_are_a_contract() -> None:
    linear = {f"{side}_projector.{leaf}" for side in ("key", "value") for leaf in ("weight", "bias")}
    assert set(adapter().state_dict()) == linear | {"query_heads.0.weight", "query_heads.2.weight"}
    assert set(adapter(separate_query_head=False).state_dict()) == linear
    deep = adapter(projector="mlp", mlp_depth=1, mlp_hidden_dim=6).state_dict()
    assert {name for name in deep if name.startswith("key")} == {
        f"key_projector.{i}.{leaf}" for i in (0, 1, 3) for leaf in ("weight", "bias")
    }


def test_a_knowledge_query_is_a_projection_of_the_hidden_state() -> None:
    a = adapter()
    hidden = embeddings(2, 5, 20)
    r = a.knowledge_query(2, hidden)
    assert r is not None
    assert r.shape == (2, HEADS, 5, WIDTH)
    head = a.query_heads["2"]
    assert isinstance(head, nn.Linear)
    torch.testing.assert_close(r[:, 1], hidden @ head.weight[WIDTH : 2 * WIDTH].T)
    assert adapter(separate_query_head=False).knowledge_query(2, hidden) is None


@pytest.mark.parametrize("which", ["key", "value"])
def test_embeddings_of_another_encoder_are_refused(which: str) -> None:
    good, bad = torch.randn(7, P), torch.randn(7, P + 1)
    with pytest.raises(KnowledgeError, match=rf"{which} embeddings are 11 wide, .* P = 10; .*hashing:0"):
        adapter(encoder="hashing:0").project(*((bad, good) if which == "key" else (good, bad)))


def test_embeddings_come_in_any_dtype() -> None:
    vectors = embeddings(7, P)
    half = adapter().project(vectors.half(), vectors.half())
    assert half.dtype == torch.float64
    assert adapter().project(vectors, vectors, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (torch.randn(7, 71), torch.randn(7, 71), r"\(M, 72\) or \(B, M, 72\); got \(7, 71\)"),
        (torch.randn(72), torch.randn(72), r"got \(72,\)"),
        (torch.randn(7, 72), torch.randn(8, 72), r"\(7, 72\) .* and \(8, 72\)"),
        (torch.randn(7, 72), torch.randn(7, 72).half(), r"float32 and .*float16"),
    ],
    ids=["width", "rank", "count", "dtype"],
)
def test_projected_knowledge_refuses(keys: torch.Tensor, values: torch.Tensor, message: str) -> None:
    with pytest.raises(KnowledgeError, match=message):
        ProjectedKnowledge(keys, values, config())


def test_projected_knowledge_moves() -> None:
    projected = adapter().project(embeddings(7, P), embeddings(7, P))
    moved = projected.to(dtype=torch.float16, device="meta")
    assert (moved.dtype, moved.device.type) == (torch.float16, "meta")
    assert (projected.dtype, projected.device.type) == (torch.float64, "cpu")
