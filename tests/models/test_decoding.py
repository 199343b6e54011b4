"""Decoding while the knowledge base changes: nothing is read back to the host, nothing is compiled again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import StaticCache

from kblam.generation.evidence import EvidenceRecorder
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import attach
from kblam.models.resident import ResidentKnowledge
from kblam_kernels.common import columns
from tests.fakes import HashingEncoder
from tests.models.conftest import Tied, tie
from tests.models.tiny import EMBEDDING_DIM, close, differ, prompts
from tests.reading import no_reading

PROMPT, STEPS = 10, 50
INF = float("inf")
IDS, MASK = prompts(length=PROMPT + STEPS, padding=2)
PLANS = ["latent", "dense"]


def fact(number: int, value: str = "old") -> Triple:
    return Triple(f"thing {number}", "color", f"{value} {number}")


@pytest.fixture
def kb() -> Iterator[KnowledgeBase]:
    with KnowledgeBase.from_triples([fact(number) for number in range(20)], HashingEncoder(EMBEDDING_DIM)) as kb:
        yield kb


@pytest.fixture
def tied() -> Iterator[Tied]:
    torch._dynamo.reset()
    yield tie(layers=2, knowledge_scale=5.0)
    torch._dynamo.reset()


def resident_of(kb: KnowledgeBase, tied: Tied, plan: str) -> ResidentKnowledge:
    return ResidentKnowledge(kb, tied.adapter, dtype=torch.float32, device=torch.device("cpu"), plan=plan)


def prefilled(tied: Tied) -> StaticCache:
    cache = StaticCache(config=tied.model.config, max_cache_len=PROMPT + STEPS)
    tied.model(IDS[:, :PROMPT], attention_mask=MASK[:, :PROMPT], past_key_values=cache)
    return cache


def step(model: Any, place: int, cache: StaticCache) -> Tensor:
    logits: Tensor = model(IDS[:, place : place + 1], attention_mask=MASK, past_key_values=cache).logits
    return logits


@torch.library.custom_op("kblam_tests::reads", mutates_args=())
def reads(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.sum() > 0 else -tensor


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda t: t.item(),
    "tolist": lambda t: t.tolist(),
    "numpy": lambda t: t.numpy(),
    "asarray": np.asarray,
    "bool": bool,
    "int": int,
    "float": float,
    "range": range,
    "mask": lambda t: t[t > 0],
    "an op's body": lambda t: reads(t),
}


@pytest.mark.parametrize("way", READS)
def test_what_reads_is_refused(way: str) -> None:
    """In the body of an op too, into which a dispatch mode alone does not see."""
    one = torch.ones((), dtype=torch.int64)
    READS[way](one)
    with pytest.raises(AssertionError, match="reads from the device"), no_reading():
        READS[way](one)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("top_k", [None, 4], ids=["all", "top-k"])
@pytest.mark.parametrize("plan", [*PLANS, "materialise"])
def test_a_step_reads_nothing_back(
    plan: str, top_k: int | None, backend: str, kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With evidence. A prefill neither, where neither padding nor a static cache makes its mask be looked at."""
    monkeypatch.setattr(columns, "may_be_read", lambda tensor: False)  # as on a device: a CPU may look for NaN
    tied = tie(layers=2, knowledge_scale=5.0, top_k=top_k)
    attachment = attach(tied.model, tied.adapter, backend=backend)
    ranges = torch.tensor([[0, 20], [0, 10]], dtype=torch.int32)
    recorder = EvidenceRecorder()
    resident = resident_of(kb, tied, plan)
    with (
        attachment.using(resident, bias=torch.zeros(20), knowledge_range=ranges),
        attachment.observing(recorder),
    ):
        cache = prefilled(tied)
        with no_reading():
            logits = [step(tied.model, place, cache) for place in range(PROMPT, PROMPT + STEPS)]
            logits.append(tied.model(IDS).logits)
    assert torch.cat(logits, 1).isfinite().all()
    assert len(recorder.masses) == 1 + STEPS + 1


@torch.no_grad()
@pytest.mark.parametrize("plan", PLANS)
def test_fifty_compiled_steps_follow_the_knowledge_base(plan: str, kb: KnowledgeBase, tied: Tied) -> None:
    """One graph for 50 tokens, between which triples are changed, added and removed, hidden and shown."""
    resident = resident_of(kb, tied, plan)
    bias = torch.zeros(20)
    ranges = torch.tensor([[0, 20], [0, 20]], dtype=torch.int32)
    changes = {
        PROMPT + 10: lambda: kb.add(fact(3, "new")),
        PROMPT + 20: lambda: (kb.remove("thing 7"), kb.add([fact(40), fact(41), fact(42)])),
        PROMPT + 30: lambda: bias[:5].fill_(-INF),
        PROMPT + 40: lambda: ranges[0].copy_(torch.tensor([2, 9])),
    }
    compiled = torch.compile(tied.model, fullgraph=True, backend="aot_eager")
    with tied.attachment.using(resident, bias=bias, knowledge_range=ranges):
        caches = prefilled(tied), prefilled(tied)
        # Dynamo makes the position a symbol at its second value.
        for place in (PROMPT, PROMPT + 1):
            step(compiled, place, caches[0])
            step(tied.model, place, caches[1])
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        where = {name: buffer.data_ptr() for name, buffer in resident.buffers.items()}
        stale: Tensor | None = None
        with torch._dynamo.config.patch(error_on_recompile=True):
            for place in range(PROMPT + 2, PROMPT + STEPS):
                if change := changes.get(place):
                    stale = step(tied.model, place, copy.deepcopy(caches[1]))
                    change()
                    resident.sync()
                found, expected = step(compiled, place, caches[0]), step(tied.model, place, caches[1])
                close(found, expected)
                if place in changes:
                    assert stale is not None
                    assert differ(found, stale, by=1e-3), "the change is seen at the next token"
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
        assert {name: buffer.data_ptr() for name, buffer in resident.buffers.items()} == where
