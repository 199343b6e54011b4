"""Model cases: Hugging Face models with upstream's weights attached through the importer, in float32.

Compared are rows that see at least one prompt token. The others (left padding) are undefined in upstream: they attend
to the knowledge uniformly in float32, to everything in bfloat16. docs/upstream.md has the list of such differences.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from kblam.adapter import KnowledgeAdapter
from kblam.models import attach, detach
from tests.golden.comparison import Scores
from tests.golden.files import Case, cases_of
from tests.golden.recording import LayerCall, recording
from tests.golden.selection import SelectionByUntrainedHead
from tests.golden.upstream_models import UpstreamModels, knowledge_of

pytestmark = pytest.mark.golden

# Upstream's own float32 noise is 5e-5 in logits; wrong arithmetic moves them by 2e-3 and more.
LOGITS = 3e-4
WEIGHTS = 5e-5


def seen_rows(t: dict[str, Tensor], model: PreTrainedModel) -> Tensor:
    """bool (B, N): queries that see a prompt token."""
    mask, window = t["attention_mask"].bool(), getattr(model.config, "sliding_window", None)
    N = mask.shape[1]
    column, row = torch.arange(N), torch.arange(N)[:, None]
    visible = (column <= row) & (column > row - (window or N))
    return (visible & mask[:, None]).any(-1)


def prefill(model: PreTrainedModel, t: dict[str, Tensor], **kwargs: Any) -> Any:
    names = ("input_ids", "attention_mask", "position_ids")
    with torch.no_grad():
        return model(**{name: t[name] for name in names}, **kwargs)


def check_weights(case: Case, t: dict[str, Tensor], calls: dict[int, LayerCall], seen: Tensor, scores: Scores) -> None:
    """Both parts of each stored layer's attention, and `evidence` over the stored rows."""
    rows = t["attn_rows"]
    for layer in case["attn_layers"]:
        source = stored_weights(t, layer)
        if source is None:
            continue
        call, prompt = calls[layer], t[f"{source}_L{layer}_prompt"]
        kept = seen[:, rows][:, None].expand(prompt.shape[:-1])
        scores.close("prompt weights", call.prompt_weights(rows)[kept], prompt[kept], WEIGHTS)
        if f"{source}_L{layer}_kb" not in t:
            assert call.knowledge.num_tokens == 0
            continue
        knowledge = t[f"{source}_L{layer}_kb"]
        scores.close("knowledge weights", call.knowledge_weights(rows)[kept], knowledge[kept], WEIGHTS)
        row_weight = torch.zeros(seen.shape).index_fill(1, rows, 1.0) * seen
        mass = torch.where(kept[..., None], knowledge, 0.0).sum((1, 2))
        scores.close("evidence", call.mass(row_weight), mass, WEIGHTS * kept[0].numel())


def stored_weights(t: dict[str, Tensor], layer: int) -> str | None:
    """Which of the stored weights are right: those of pruned cases without padding rows only where they chose alike."""
    if f"attn_corrected_L{layer}_kb" not in t:
        return "attn"
    for above in range(layer + 1):
        ours, stored = (t.get(f"top_idx_corrected{suffix}_L{above}") for suffix in ("_nopad", ""))
        if ours is not None and stored is not None and not torch.equal(ours, stored):
            return None
    return "attn_corrected"


@pytest.mark.parametrize("case", cases_of("forward", "bf16_kb"))
def test_with_knowledge(case: Case, scores: Scores, upstream_models: UpstreamModels) -> None:
    t = case.tensors()
    model = upstream_models.model(case.folder)
    adapter = upstream_models.adapter(case.folder, case["kb_config"])
    attachment = attach(model, adapter)
    with attachment.using(knowledge_of(case, t["kb_index"], adapter)), recording() as passes:
        logits = prefill(model, t, use_cache=False).logits
    seen = seen_rows(t, model)
    scores.close("logits", logits[seen], t["logits"][seen], LOGITS)
    check_weights(case, t, passes[-1], seen, scores)


@pytest.mark.parametrize("case", cases_of("no_kb"))
def test_without_knowledge(case: Case, scores: Scores, upstream_models: UpstreamModels) -> None:
    """Attached and with no knowledge in force, the model is the base model bit for bit; so is upstream's."""
    t = case.tensors()
    model = upstream_models.model(case.folder)
    plain = prefill(detach(model), t, use_cache=False).logits
    adapter = upstream_models.adapter(case.folder, case["kb_config"])
    attachment = attach(model, adapter)
    with attachment.using(knowledge_of(case, torch.arange(3), adapter)):
        assert not torch.equal(prefill(model, t, use_cache=False).logits, plain)
    result = prefill(model, t, use_cache=False, output_attentions=True)
    assert torch.equal(result.logits, plain)

    seen = seen_rows(t, model)
    scores.close("logits", plain[seen], t["logits"][seen], LOGITS)
    for layer in case["attn_layers"]:
        ours = result.attentions[layer][:, :, t["attn_rows"]].transpose(1, 2)
        kept = seen[:, t["attn_rows"]]
        golden = t[f"attn_L{layer}_prompt"].transpose(1, 2)
        scores.close("prompt weights", ours[kept], golden[kept], WEIGHTS)
    if not case["hf_equal"]:  # a sliding window, of which upstream shows one key more
        model = upstream_models.model(case.folder, own_window=True)
        attach(model, adapter)
        plain, seen = prefill(model, t, use_cache=False).logits, seen_rows(t, model)
    scores.close("hf_logits", plain[seen], t["hf_logits"][seen], LOGITS)


def pruning_of(
    case: Case, t: dict[str, Tensor], models: UpstreamModels, knowledge: Callable[..., Any] = knowledge_of
) -> tuple[KnowledgeAdapter, Any, Any]:
    """Adapter, source of the `knowledge` of its triples, and a context in which it works, of a case that may prune."""
    adapter = models.adapter(case.folder, case["kb_config"])
    source = knowledge(case, t.get("kb_index"), adapter)
    if adapter.config.top_k is None or adapter.config.separate_query_head or source is None:
        return adapter, source, nullcontext()
    heads = models.adapter(case.folder, {**case["kb_config"], "sep_query_head": True})
    selection = SelectionByUntrainedHead(source, heads, adapter.config.top_k)
    return adapter, selection, selection.following(models.model(case.folder))


def correct_suffix(t: dict[str, Tensor]) -> str:
    """Which of the stored results to follow: upstream's own only where nothing was corrected."""
    return next(suffix for suffix in ("_corrected_nopad", "_corrected", "") if f"logits{suffix}" in t)


def chosen_triples(
    source: Any, adapter: KnowledgeAdapter, passes: list[dict[int, LayerCall]]
) -> list[dict[int, Tensor | None]]:
    """For each pass, indices of the triples that each knowledge layer kept; None where it did not prune."""
    if isinstance(source, SelectionByUntrainedHead):
        return [dict(chosen) for chosen in source.passes]
    return [{layer: calls[layer].index for layer in adapter.config.knowledge_layers} for calls in passes]


def check_choice(t: dict[str, Tensor], suffix: str, step: int | None, index_of: dict[int, Tensor | None]) -> None:
    """The triples kept in every layer, best first. Nothing is kept where k >= M."""
    for layer, index in index_of.items():
        golden = t.get(f"top_idx{suffix}_L{layer}")
        if index is not None:
            assert golden is not None, f"layer {layer} pruned, which upstream did not"
            assert torch.equal(index, golden if step is None else golden[:, step]), f"layer {layer}, step {step}"


@pytest.mark.parametrize("case", cases_of("sparsify"))
def test_top_k_pruning(case: Case, scores: Scores, upstream_models: UpstreamModels) -> None:
    check_pruning(case, scores, upstream_models)


def check_pruning(
    case: Case, scores: Scores, models: UpstreamModels, knowledge: Callable[..., Any] = knowledge_of, **options: Any
) -> None:
    """A prefill that prunes: logits, choice and weights. `options` are those of `attach`."""
    t = case.tensors()
    model = models.model(case.folder)
    adapter, source, selecting = pruning_of(case, t, models, knowledge)
    attachment = attach(model, adapter, **options)
    with attachment.using(source), recording() as passes, selecting:
        logits = prefill(model, t, use_cache=False).logits
    suffix, seen = correct_suffix(t), seen_rows(t, model)
    scores.close("logits", logits[seen], t[f"logits{suffix}"][seen], LOGITS)
    (chosen,) = chosen_triples(source, adapter, passes)
    if not case.entry.get("upstream_ignores_dynamic_sparsify") and case["kb_config"]["top_k_kb"] < case["M"]:
        assert all(index is not None for index in chosen.values())
    check_choice(t, suffix, None, chosen)
    check_weights(case, t, passes[-1], seen, scores)


@pytest.mark.parametrize("case", cases_of("decode"))
def test_decoding(case: Case, scores: Scores, upstream_models: UpstreamModels) -> None:
    """Prefill and steps over a KV cache, fed with our own greedy tokens; then the same through `generate`."""
    t = case.tensors()
    model = upstream_models.model(case.folder)
    adapter, source, selecting = pruning_of(case, t, upstream_models)
    suffix, seen = correct_suffix(t), seen_rows(t, model)
    attachment = attach(model, adapter)
    with attachment.using(source), recording() as passes, selecting, torch.no_grad():
        result = prefill(model, t, use_cache=True)
        scores.close("logits", result.logits[seen], t[f"logits{suffix}"][seen], LOGITS)
        tokens, mask = [result.logits[:, -1].argmax(-1)], t["attention_mask"]
        for step in range(case["steps"]):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            result = model(
                input_ids=tokens[-1][:, None],
                attention_mask=mask,
                position_ids=t["step_position_ids"][:, step, None],
                past_key_values=result.past_key_values,
                use_cache=True,
            )
            scores.close("step logits", result.logits[:, 0], t[f"step_logits{suffix}"][:, step], LOGITS)
            tokens.append(result.logits[:, -1].argmax(-1))
        assert torch.equal(torch.stack(tokens, 1), t[f"generated{suffix}"])
        chosen = chosen_triples(source, adapter, passes)
        assert len(chosen) == (0 if source is None else case["steps"] + 1)
        for step, choice in enumerate(chosen):
            check_choice(t, suffix, step, choice)
        # transformers drops the cache when longrope changes its factors; upstream keeps the keys as they were made.
        if case["position_ids_mode"] == "cumsum" and "longrope" not in str(model.config.rope_parameters):
            assert torch.equal(greedy(model, t, case["steps"] + 1), t[f"generated{suffix}"])


def greedy(model: PreTrainedModel, t: dict[str, Tensor], count: int) -> Tensor:
    """What `generate` adds; no token ends it."""
    never = model.config.get_text_config().vocab_size
    config = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=never)
    ids = model.generate(t["input_ids"], attention_mask=t["attention_mask"], generation_config=config)
    return ids[:, t["input_ids"].shape[1] :]


@pytest.mark.parametrize("case", cases_of("bf16"))
def test_in_bfloat16(case: Case, scores: Scores, upstream_models: UpstreamModels) -> None:
    """Model and knowledge in bfloat16 are as close to float32 as upstream's own bfloat16 run, within a factor 2.

    The float32 run takes the same, rounded knowledge. Ours is exact enough to stand in for upstream's where upstream's
    is not stored: attention weights.
    """
    t = case.tensors()
    runs: dict[torch.dtype, tuple[Tensor, dict[int, LayerCall]]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = upstream_models.model(case.folder, dtype)
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
        adapter = upstream_models.adapter(case.folder, case["kb_config"])
        attachment = attach(model, adapter)
        with attachment.using(knowledge_of(case, t["kb_index"], adapter, dtype)), recording() as passes:
            runs[dtype] = prefill(model, t, use_cache=False).logits, passes[-1]
    (exact, exact_calls), (ours, calls) = runs[torch.float32], runs[torch.bfloat16]
    seen = seen_rows(t, model)
    scores.close("float32 logits", exact[seen], t["logits_f32"][seen], LOGITS)
    scores.no_worse("RMS of logits", ours[seen], t["logits"][seen], t["logits_f32"][seen])
    rows = t["attn_rows"]
    for layer in case["attn_layers"]:
        kept = seen[:, rows][:, None].expand(t[f"attn_L{layer}_prompt"].shape[:-1])
        for part in ("prompt", "knowledge"):
            exact_part, our_part = (getattr(c[layer], f"{part}_weights")(rows) for c in (exact_calls, calls))
            golden = t[f"attn_L{layer}_{'kb' if part == 'knowledge' else part}"]
            scores.no_worse(f"RMS of {part} weights", our_part[kept], golden[kept], exact_part[kept])
