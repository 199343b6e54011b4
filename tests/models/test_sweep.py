"""Every family of transformers, tiny and random: it is served as it is without knowledge, or refused by name."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.errors import KblamError
from kblam.models import Attachment, attach, attachment_of
from kblam.models.families import FAMILIES, attention_modules
from tests.models.tiny import EMBEDDING_DIM, SHAPES, WINDOW, randomise

SHAPE: dict[str, Any] = {
    **SHAPES,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "n_routed_experts": 4,
    "mamba_chunk_size": 16,  # what is computed at once, however short the prompt
    "sliding_window": WINDOW,
    "use_sliding_window": True,
    "max_window_layers": 1,
}
MOST_WEIGHTS = 3_000_000
# Families that are served today, beside those of the table: what is refused must not be more by tomorrow.
SERVED = {"cohere", "ernie4_5", "exaone4", "glm4", "granite", "mixtral", "olmo2", "phimoe", "qwen2_moe", "starcoder2"}
MUST = SERVED | set(FAMILIES)
SLOW = {"falcon_h1"}
# Longer than the window, so that a window which is not kept shows.
IDS = torch.randint(3, 60, (2, 14), generator=torch.Generator().manual_seed(0))


def built(family: str) -> PreTrainedModel:
    """A tiny model that runs; else the test is skipped, or fails if the family must be served."""
    leave = pytest.fail if family in MUST else pytest.skip
    try:
        config = AutoConfig.for_model(family, **SHAPE)
        with torch.device("meta"):
            weights = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
    except Exception as error:  # its config wants more than the names above
        leave(f"is not built from these shapes: {type(error).__name__}")
    if weights > MOST_WEIGHTS:
        leave(f"{weights:,} weights at this size")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        randomise(model, 0.2)
    try:
        with torch.no_grad():
            model(IDS)
    except Exception as error:
        leave(f"does not run at this size: {type(error).__name__}")
    return model


def hidden(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = model(IDS).logits
    return states


def calls_of(attachment: Attachment, knowledge: Any) -> dict[Any, int]:
    """How often each attention is asked in one pass with this knowledge."""
    calls: dict[Any, int] = {}

    def count(module: Any, *_: Any) -> None:
        calls[module] = calls.get(module, 0) + 1

    with attachment.using(knowledge), attachment.probing(count):
        hidden(attachment.model)
    return calls


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=pytest.mark.slow if family in SLOW else ())
        for family in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    ],
)
def test_a_family_is_served_as_it_is_or_refused_by_name(family: str) -> None:
    warnings.simplefilter("ignore")
    model = built(family)
    base = hidden(model)
    try:
        config = AdapterConfig.for_model(model.config, EMBEDDING_DIM, layer_frequency=2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            adapter = KnowledgeAdapter(config).eval()
            randomise(adapter, 0.5)
        attachment = attach(model, adapter)
    except KblamError as refusal:
        if family in MUST:
            pytest.fail(f"was served, and is refused: {refusal}")
        # Nothing is left behind.
        assert attachment_of(model) is None
        torch.testing.assert_close(hidden(model), base, rtol=0, atol=0)
        return
    vectors = torch.randn(5, EMBEDDING_DIM, generator=torch.Generator().manual_seed(2))
    nothing, some = adapter.project(vectors[:0], vectors[:0]), adapter.project(vectors, vectors)
    with attachment.using(nothing):
        without = hidden(model)
    scale = base.abs().max()
    torch.testing.assert_close(without / scale, base / scale, rtol=0, atol=1e-3)
    with attachment.using(some):
        assert (hidden(model) - base).abs().max() > 1e-4 * scale
    calls = calls_of(attachment, some)
    knowing = [attention_modules(model)[layer] for layer in config.knowledge_layers]
    assert [calls.get(module, 0) for module in knowing] == [1] * len(knowing)
    torch.testing.assert_close(hidden(model), base, rtol=0, atol=0)
