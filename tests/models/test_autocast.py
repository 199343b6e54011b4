"""An attached model under autocast, where what reaches attention has two precisions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kblam.knowledge import KnowledgeBase, Triple
from kblam.models.resident import ResidentKnowledge
from tests.fakes import HashingEncoder
from tests.models.conftest import tie
from tests.models.tiny import EMBEDDING_DIM, logits, prompts, triples


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_attention_takes_mixed_precision(family: str) -> None:
    tied = tie(family, knowledge_scale=4.0)
    ids, mask = prompts()
    knowledge = triples(tied.adapter, 9)
    with tied.attachment.using(knowledge):
        exact = logits(tied.model, ids, mask)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = logits(tied.model, ids, mask)
    with torch.autocast("cpu", torch.bfloat16):
        without = logits(tied.model, ids, mask)
    assert relative_error(mixed, exact) < 0.02
    assert relative_error(without, exact) > 0.1, "it sees the knowledge"


def test_the_adapter_learns_under_autocast() -> None:
    tied = tie(knowledge_scale=4.0)
    tied.adapter.requires_grad_(True)
    ids, mask = prompts()
    knowledge = triples(tied.adapter, 9)
    with torch.autocast("cpu", torch.bfloat16), tied.attachment.using(knowledge):
        tied.model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    for name, parameter in tied.adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("plan", ["latent", "dense", "materialise"])
def test_a_resident_knowledge_base_is_read_in_mixed_precision(plan: str) -> None:
    tied = tie(knowledge_scale=4.0)
    ids, mask = prompts()
    facts = [Triple(f"thing {number}", "color", f"value {number}") for number in range(9)]
    with KnowledgeBase.from_triples(facts, HashingEncoder(EMBEDDING_DIM)) as kb:
        resident = ResidentKnowledge(kb, tied.adapter, dtype=torch.float32, device=torch.device("cpu"), plan=plan)
        with tied.attachment.using(resident):
            exact = logits(tied.model, ids, mask)
            with torch.autocast("cpu", torch.bfloat16):
                mixed = logits(tied.model, ids, mask)
    assert relative_error(mixed, exact) < 0.02


def test_what_is_made_under_autocast_is_held_in_full() -> None:
    tied = tie(projector="mlp", mlp_depth=1, mlp_hidden_dim=20)
    with KnowledgeBase.from_triples([Triple("a", "b", "c")], HashingEncoder(EMBEDDING_DIM)) as kb:
        made = []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                made.append(ResidentKnowledge(kb, tied.adapter, dtype=torch.float32, device=torch.device("cpu")))
    for name, buffer in made[0].buffers.items():
        assert torch.equal(buffer, made[1].buffers[name]), name


@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_keys_and_values_have_one_dtype_where_layer_norm_is_exact(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype | None, expected: torch.dtype
) -> None:
    """As under CUDA autocast, which gives LayerNorm in float32; that of a CPU gives bfloat16."""
    adapter = tie().adapter
    layer_norm = F.layer_norm
    monkeypatch.setattr(F, "layer_norm", lambda given, *shape, **options: layer_norm(given.float(), *shape, **options))
    vectors = torch.randn(3, EMBEDDING_DIM)
    with torch.autocast("cpu", torch.bfloat16):
        projected = adapter.project(vectors, vectors, dtype=dtype)
    assert projected.keys.dtype == projected.values.dtype == expected
