"""The scores that training learns from are those that a model with the adapter computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kblam.adapter import KnowledgeAdapter
from kblam.models import attach
from kblam.training.language import Learner
from kblam.training.losses import evidence_weight
from kblam.training.material import Material
from kblam.training.retrieval import retrieval_scores
from kblam.training.run import Trainer
from kblam.training.start import Measured, initialise, measure
from tests.models.tiny import EMBEDDING_DIM as P
from tests.models.tiny import close, prompts, randomise, tiny_adapter, tiny_model
from tests.training.conftest import small

# With a norm of queries, with a scale that is not head_dim**-0.5, and with both.
BASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "granite": {"attention_multiplier": 0.1},
    "gemma3_text": {},
}
IDS, _ = prompts(rows=3, padding=0)
LAYERS = (0, 2)


def base_of(family: str, **options: Any) -> PreTrainedModel:
    """Its norms are no longer the ones that all channels share."""
    model = tiny_model(family, **BASES[family], **options)
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_norm" in name:
                weight.add_(torch.rand(weight.shape, generator=draw))
    return model


def observed(model: PreTrainedModel, adapter: KnowledgeAdapter, vectors: Tensor, layer: int) -> dict[str, Any]:
    """What a layer's attention used at IDS: the questions are the first of the facts."""
    seen: dict[str, Any] = {}
    told = KnowledgeAdapter(dataclasses.replace(adapter.config, evidence_layer=layer))
    told.load_state_dict(adapter.state_dict())
    attachment = attach(model, told, trainable=True)  # a fresh adapter says nothing yet, of which others are warned
    with (
        torch.no_grad(),
        attachment.using(told.project(vectors, vectors, dtype=model.dtype), question=vectors[: len(IDS)]),
        attachment.observing(seen.update),
    ):
        model(IDS)
    return seen


def scores_of(seen: dict[str, Any]) -> Tensor:
    """(B, Hq, N, M) in float64."""
    return torch.einsum("bhnd,hmd->bhnm", seen["query"].double(), seen["knowledge"].key.double()) * seen["scale"]


@pytest.mark.parametrize("family", BASES)
def test_a_fresh_adapter_scores_as_stage_one_has_it(family: str) -> None:
    model = base_of(family)
    adapter = tiny_adapter(model, question_head="mlp", question_hidden_dim=8)
    measured = measure(model, adapter.config, IDS.tolist())
    initialise(adapter, measured, seed=0)
    vectors = torch.randn(9, P, generator=torch.Generator().manual_seed(1))
    wanted = retrieval_scores(adapter.double(), vectors[:3].double(), vectors.double(), measured.scale)
    adapter.float()
    for place, layer in enumerate(LAYERS):
        seen = observed(model, adapter, vectors, layer)
        # At every position: what hidden states add is zero yet, and a norm of zero is zero.
        expected = wanted[place].transpose(0, 1)
        close(scores_of(seen), expected[:, :, None].expand(-1, -1, IDS.shape[1], -1), 1e-5)
        if layer == min(LAYERS):  # above it, knowledge has changed what the prompt weighs
            total = torch.logaddexp(expected.logsumexp(-1), measured.prompt_lse[layer].double())
            close(seen["lse"][:, :, -1].double(), total, 1e-5)


@pytest.mark.parametrize("family", BASES)
def test_the_scale_is_measured_where_the_model_has_it(family: str) -> None:
    model = base_of(family)
    adapter = tiny_adapter(model, question_head="linear")
    scale = model.model.layers[0].self_attn.scaling
    assert measure(model, adapter.config, IDS.tolist()).scale == {0: scale, 2: scale}
    assert (scale == adapter.config.head_dim**-0.5) == (family in ("llama", "qwen3"))


def test_the_start_is_the_same_whatever_the_scale() -> None:
    model = base_of("llama")
    vectors = torch.randn(9, P, generator=torch.Generator().manual_seed(1))
    found = []
    for factor in (1.0, 0.2, 3.0):
        adapter = tiny_adapter(model, question_head="linear")
        usual = Measured.usual(adapter.config, 5.0)
        measured = Measured(usual.prompt_lse, {layer: factor * usual.scale[layer] for layer in LAYERS})
        initialise(adapter, measured, seed=0)
        found.append(retrieval_scores(adapter, vectors[:3], vectors, measured.scale))
    close(found[1], found[0])
    close(found[2], found[0])


def test_a_run_starts_with_the_scale_of_its_model(prepared: Callable[..., Material], tmp_path: Path) -> None:
    made = prepared()
    model = tiny_model("granite", vocab_size=made.model.config.vocab_size, **BASES["granite"])
    material = dataclasses.replace(made, model=model)
    config = small(retrieval_steps=0, max_steps=0)
    trainer = Trainer(config, material, tmp_path, say=lambda text: None)
    trainer.fit()
    asked = [trainer._prompt(asked.text) for asked in material.asked[:64]]
    weighs = measure(model, material.adapter_config, asked).prompt_lse
    usual = Measured(weighs, Measured.usual(material.adapter_config, 0.0).scale)
    llamas = KnowledgeAdapter(material.adapter_config)
    initialise(llamas, usual, config.seed)
    vectors = torch.randn(9, P, generator=torch.Generator().manual_seed(1))
    wanted = retrieval_scores(llamas, vectors[:3], vectors, usual.scale).double().detach()
    found = scores_of(observed(model, trainer.adapter, vectors, 0))
    close(found, wanted[0].transpose(0, 1)[:, :, None].expand(found.shape))


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_the_evidence_terms_are_shares_of_the_attention(
    family: str, prepared: Callable[..., Material], tmp_path: Path
) -> None:
    made = prepared()
    model = tiny_model(family, vocab_size=made.model.config.vocab_size, **BASES[family])
    trainer = Trainer(small(unanswerable=0.5), dataclasses.replace(made, model=model), tmp_path, say=lambda text: None)
    adapter = trainer.adapter
    torch.manual_seed(0)
    randomise(adapter, 0.1)
    attachment = attach(model, adapter, trainable=True)
    asked = trainer.builder.build(0)
    batch, keys, values, questions = trainer.inputs(asked, 0, 1)
    seen: dict[str, Any] = {}
    with torch.no_grad():
        found = Learner(adapter, attachment)(batch, keys, values, questions)
        projected = adapter.project(keys, values)
        with (
            attachment.using(projected, bias=batch.bias, question=questions),
            attachment.observing(seen.update),
        ):
            model.get_decoder()(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    shares = scores_of(seen) + batch.bias.double()[:, None, None] - seen["lse"].double()[..., None]
    row, position, triple = batch.evidence.unbind(1)
    retrieval = -(shares[row, :, position, triple].mean(1) * evidence_weight(batch)).sum()
    refused = batch.refused.nonzero().squeeze(1)
    mass = shares[refused, :, batch.first[refused]].exp().sum(-1)
    assert len(row)
    assert len(refused)
    close(found["retrieval"].double(), retrieval, 1e-4)
    close(found["refusal"].double(), -(1 - mass).log().mean(1).sum(), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", BASES)
def test_query_heads_of_zero_learn(family: str, dtype: torch.dtype) -> None:
    """A norm divides by the length of what it reads, which is zero at the first step."""
    model = base_of(family).to(dtype).requires_grad_(False)
    adapter = tiny_adapter(model, question_head="linear")
    initialise(adapter, Measured.usual(adapter.config, 4.0), seed=0)
    adapter.requires_grad_(True)
    vectors = torch.randn(9, P, generator=torch.Generator().manual_seed(1))
    attachment = attach(model, adapter, trainable=True)
    with attachment.using(adapter.project(vectors, vectors, dtype=dtype), question=vectors[:3]):
        model(IDS).logits.float().pow(2).sum().backward()
    for name, weight in adapter.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    assert all(weight.grad.any() for weight in adapter.query_heads.parameters())


@pytest.mark.parametrize("is_bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_the_usual_scale_gives_the_bits_of_a_plain_factor(head_dim: int, is_bf16: bool) -> None:
    adapter = tiny_adapter(tiny_model("qwen3", head_dim=head_dim), question_head="linear")
    config = adapter.config
    vectors = torch.randn(9, P, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        found = retrieval_scores(adapter, vectors[:3], vectors, Measured.usual(config, 0.0).scale)
        heads = (config.num_heads, head_dim)
        keys = adapter.project_keys(vectors).unflatten(-1, (config.num_slots, *heads))
        asking = torch.stack([adapter.question_part(layer, vectors[:3]) for layer in LAYERS], 1).unflatten(-1, heads)
        keys = keys[:, [config.slot_of(layer) for layer in LAYERS]]
        assert torch.equal(found, torch.einsum("qlhd,klhd->lhqk", asking, keys) * head_dim**-0.5)
