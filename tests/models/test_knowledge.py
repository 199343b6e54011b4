"""What is put in force, and how bias, ranges, scale and top-k act on it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import StaticCache

from kblam.adapter import ProjectedKnowledge
from kblam.errors import KnowledgeError
from tests.models.conftest import Tied, tie
from tests.models.tiny import close, differ, logits, prompts, select, stepwise, tiny_adapter, tiny_model, triples

INF = float("inf")


def test_per_row_knowledge_is_each_rows_own(tied: Tied) -> None:
    ids, mask = prompts()
    knowledge = triples(tied.adapter, 2, 9)
    with tied.attachment.using(knowledge):
        together = logits(tied.model, ids, mask)
    for row in (0, 1):
        alone = ProjectedKnowledge(knowledge.keys[row], knowledge.values[row], knowledge.config)
        with tied.attachment.using(alone):
            close(together[row], logits(tied.model, ids, mask)[row])


@pytest.mark.parametrize("scale", [None, 5.0], ids=["unscaled", "scaled"])
def test_minus_infinity_removes_a_triple(scale: float | None) -> None:
    tied = tie(knowledge_scale=scale)
    ids, _ = prompts()
    knowledge, keep = triples(tied.adapter, 9), [0, 1, 2, 4, 5, 7, 8]
    bias = torch.zeros(9)
    bias[[3, 6]] = -INF
    with tied.attachment.using(knowledge, bias=bias):
        hidden = logits(tied.model, ids)
    # The scale counts M, hidden or not.
    weight = 0.0 if scale is None else math.log(7 / 9)
    with tied.attachment.using(select(knowledge, keep), bias=weight):
        close(hidden, logits(tied.model, ids))


def test_a_bias_per_row_hides_triples_from_a_row(tied: Tied) -> None:
    ids, mask = prompts()
    knowledge, bias = triples(tied.adapter, 9), torch.zeros(2, 9)
    bias[1, 2:] = -INF
    with tied.attachment.using(knowledge, bias=bias):
        together = logits(tied.model, ids, mask)
    for row, seen in enumerate((slice(0, 9), slice(0, 2))):
        with tied.attachment.using(select(knowledge, seen)):
            close(together[row], logits(tied.model, ids, mask)[row])


def test_ranges_show_each_row_a_part(tied: Tied) -> None:
    ids, mask = prompts()
    knowledge = triples(tied.adapter, 9)
    ranges = torch.tensor([[0, 4], [3, 9]], dtype=torch.int32)
    with tied.attachment.using(knowledge, knowledge_range=ranges):
        together = logits(tied.model, ids, mask)
    for row, (start, end) in enumerate(ranges.tolist()):
        with tied.attachment.using(select(knowledge, slice(start, end))):
            close(together[row], logits(tied.model, ids, mask)[row])


def test_the_scale_adds_log_c_minus_log_m() -> None:
    scaled, plain = tie(knowledge_scale=4.0), tie()
    ids, _ = prompts()
    knowledge = triples(scaled.adapter, 9)
    with scaled.attachment.using(knowledge, bias=0.25), plain.attachment.using(knowledge, bias=math.log(4 / 9) + 0.25):
        close(logits(scaled.model, ids), logits(plain.model, ids))
    # It is there so that a knowledge base said twice over weighs what it weighed.
    twice = ProjectedKnowledge(knowledge.keys.repeat(2, 1), knowledge.values.repeat(2, 1), knowledge.config)
    with scaled.attachment.using(knowledge):
        once = logits(scaled.model, ids)
    with scaled.attachment.using(twice):
        close(logits(scaled.model, ids), once)


def test_without_a_query_head_there_is_no_scale_and_the_rotated_query_asks() -> None:
    # Upstream applies its scale only with a separate query head.
    scaled, plain = tie(separate_query_head=False, knowledge_scale=4.0), tie(separate_query_head=False)
    ids, _ = prompts()
    knowledge = triples(plain.adapter, 9)
    with scaled.attachment.using(knowledge), plain.attachment.using(knowledge):
        assert torch.equal(logits(scaled.model, ids), logits(plain.model, ids))
    own = tie()
    with own.attachment.using(knowledge), plain.attachment.using(knowledge):
        assert differ(logits(own.model, ids), logits(plain.model, ids))


def test_no_triple_is_no_knowledge_with_a_scale_too() -> None:
    tied = tie(knowledge_scale=4.0)
    ids, _ = prompts()
    base = logits(tied.model, ids)
    with tied.attachment.using(select(triples(tied.adapter, 9), slice(0, 0))):
        close(logits(tied.model, ids), base)


@pytest.mark.parametrize("k", [9, 50])
def test_top_k_of_all_is_all(k: int) -> None:
    pruned, whole = tie(top_k=k, knowledge_scale=4.0), tie(knowledge_scale=4.0)
    ids, mask = prompts()
    knowledge = triples(whole.adapter, 9)
    with pruned.attachment.using(knowledge), whole.attachment.using(knowledge):
        assert torch.equal(logits(pruned.model, ids, mask), logits(whole.model, ids, mask))


def test_top_k_attends_to_the_best_and_counts_k() -> None:
    pruned = tie(top_k=3, knowledge_scale=4.0, layer_frequency=4)  # layer 0 alone, whose choice a bias can repeat
    whole = tie(layer_frequency=4)
    ids, mask = prompts()
    knowledge = triples(whole.adapter, 9)
    seen: dict[str, Any] = {}
    with pruned.attachment.using(knowledge), pruned.attachment.observing(lambda **what: seen.update(what)):
        chosen = logits(pruned.model, ids, mask)
    assert seen["index"].shape == (2, 3)
    assert seen["knowledge"].num_tokens == 3
    bias = torch.full((2, 9), -INF).scatter(1, seen["index"], math.log(4 / 3))
    with whole.attachment.using(knowledge, bias=bias):
        close(chosen, logits(whole.model, ids, mask))


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_top_k_of_a_decoded_token_is_its_own(static: bool) -> None:
    tied = tie(top_k=2, layer_frequency=4)
    ids, mask = prompts(length=12)
    chosen: list[torch.Tensor] = []
    cache = StaticCache(config=tied.model.config, max_cache_len=20) if static else None
    with (
        tied.attachment.using(triples(tied.adapter, 30)),
        tied.attachment.observing(lambda **what: chosen.append((what["query"], what["index"]))),
    ):
        if static:
            stepwise(tied.model, ids, mask, cache, [8, 1, 1, 1, 1])
        else:
            with torch.no_grad():
                tied.model.generate(ids[:, :8], attention_mask=mask[:, :8], max_new_tokens=5, min_new_tokens=5)
    keys = triples(tied.adapter, 30).layer(0).key
    assert len(chosen) == 5
    for query, index in chosen[1:]:
        best = torch.einsum("bhnd,hmd->bm", query, keys).topk(2).indices
        assert torch.equal(index, best)


def test_padding_has_no_vote_in_top_k() -> None:
    tied = tie(top_k=2, layer_frequency=4)
    ids, mask = prompts()
    chosen: list[torch.Tensor] = []
    with (
        tied.attachment.using(triples(tied.adapter, 30)),
        tied.attachment.observing(lambda **what: chosen.append(what["index"])),
    ):
        padded = logits(tied.model, ids, mask)
        alone = logits(tied.model, ids[:1, 4:])
    assert torch.equal(chosen[0][:1], chosen[1])
    close(padded[:1, 4:], alone)


def test_an_observer_gets_what_the_evidence_layer_used(tied: Tied) -> None:
    ids, mask = prompts()
    knowledge = triples(tied.adapter, 9)
    calls: list[dict[str, Any]] = []
    with tied.attachment.using(knowledge), tied.attachment.observing(lambda **what: calls.append(what)):
        logits(tied.model, ids, mask)
    logits(tied.model, ids, mask)
    assert len(calls) == 1, "one layer, and only inside both blocks"
    (seen,) = calls
    given = {"knowledge", "query", "bias", "knowledge_range", "scale", "backend", "int8_products"}
    assert set(seen) == given | {"lse", "index", "cache"}
    assert torch.equal(seen["knowledge"].key, knowledge.layer(tied.adapter.config.evidence_layer).key)
    assert seen["query"].shape == (2, 4, 10, 8)
    assert (seen["lse"][0, :, :4] == -INF).all()
    assert seen["index"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda k: {"source": k.to(torch.float16)},
            "knowledge is torch.float16 on cpu, the model torch.float32 on cpu",
        ),
        (lambda k: {"source": k.to(device="meta")}, "knowledge is torch.float32 on meta, the model"),
        (lambda k: {"bias": torch.zeros(8)}, r"M = 9 triples; got \(8,\)"),
        (lambda k: {"bias": torch.zeros(2, 10)}, r"M = 9 triples; got \(2, 10\)"),
        (lambda k: {"bias": torch.zeros(1, 2, 9)}, r"M = 9 triples; got \(1, 2, 9\)"),
        (lambda k: {"bias": torch.zeros(9, dtype=torch.float64)}, "bias must be float32 on cpu; got torch.float64"),
        (lambda k: {"bias": torch.zeros(9, device="meta")}, "bias must be float32 on cpu; got .* on meta"),
        (lambda k: {"knowledge_range": torch.tensor([0, 9])}, r"must be \(B, 2\).*got \(2,\)"),
        (lambda k: {"knowledge_range": torch.tensor([[0.0, 9]])}, "must be int32 on cpu; got torch.float32"),
    ],
    ids=[
        "dtype",
        "device",
        "bias-M",
        "bias-B-M",
        "bias-rank",
        "bias-dtype",
        "bias-device",
        "range-shape",
        "range-dtype",
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(change: Any, message: str, tied: Tied) -> None:
    ids, _ = prompts()
    base = logits(tied.model, ids)
    knowledge = triples(tied.adapter, 9)
    with pytest.raises(KnowledgeError, match=message):
        tied.attachment.set_knowledge(**{"source": knowledge, **change(knowledge)})
    assert tied.attachment.knowledge is None
    assert torch.equal(logits(tied.model, ids), base)


def test_knowledge_of_another_adapter_is_refused(tied: Tied) -> None:
    wide = tiny_adapter(tiny_model(num_attention_heads=8, head_dim=8))
    with pytest.raises(KnowledgeError, match="knowledge has 8 heads of width 8, the attached adapter 4 of 8"):
        tied.attachment.set_knowledge(triples(wide, 9))
    often = tiny_adapter(tied.model, layer_frequency=1)
    with pytest.raises(KnowledgeError, match=r"projected for layers \[0, 1, 2, 3\], the attached adapter has \[0, 2\]"):
        tied.attachment.set_knowledge(triples(often, 9))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rows": 3}, "per-row knowledge has 3 rows and the batch 2"),
        ({"rows": 2, "copies": 2}, "per-row knowledge has 2 rows and the batch 4; give one per batch row"),
        ({"bias": torch.zeros(2, 9), "copies": 2}, "bias has 2 rows and the batch 4; give one per batch row"),
        (
            {"knowledge_range": torch.zeros(2, 2, dtype=torch.int32), "copies": 2},
            "knowledge_range has 2 rows and the batch 4; give one per batch row",
        ),
        ({"bias": torch.zeros(3, 9)}, "bias has 3 rows and the batch 2"),
        ({"knowledge_range": torch.zeros(3, 2, dtype=torch.int32)}, "knowledge_range has 3 rows and the batch 2"),
    ],
    ids=["knowledge", "twice the knowledge", "twice the bias", "twice the range", "bias", "range"],
)
def test_rows_that_are_not_the_batchs_are_refused(options: dict[str, Any], name: str, tied: Tied) -> None:
    rows, copies = (options.pop(name, None) for name in ("rows", "copies"))
    knowledge = triples(tied.adapter, *([rows] if rows else []), 9)
    ids = prompts()[0].repeat_interleave(copies or 1, 0)
    with tied.attachment.using(knowledge, **options), pytest.raises(KnowledgeError, match=name):
        logits(tied.model, ids)
