"""What an attached model runs on a CPU where nobody chose: the C++ kernels, not what stands in for them."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from kblam.generation.evidence import EvidenceRecorder
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import attach
from kblam.models.copies import resident_for
from tests.fakes import HashingEncoder
from tests.models.conftest import tie
from tests.models.tiny import EMBEDDING_DIM, prompts

NAMESPACE = "kblam_kernels::"


@torch.no_grad()
@pytest.mark.parametrize(("plan", "op"), [("latent", "latent_attention_cpu"), ("dense", "dense_forward_cpu")])
def test_decode_calls_the_cpp_ops(plan: str, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KBLAM_BACKEND", raising=False)
    tied = tie(knowledge_scale=4.0)
    attachment = attach(tied.model, tied.adapter, plan=plan)
    facts = [Triple(f"thing {number}", "color", f"value {number}") for number in range(30)]
    ids, _ = prompts(padding=0)
    with (
        KnowledgeBase.from_triples(facts, HashingEncoder(EMBEDDING_DIM)) as kb,
        attachment.using(resident_for(attachment, kb)),
        attachment.observing(EvidenceRecorder()),
    ):
        cache = tied.model(ids[:, :-1], use_cache=True).past_key_values
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            tied.model(ids[:, -1:], past_key_values=cache)
    counts = {event.key: event.count for event in profiled.key_averages()}
    called = {name: count for name, count in counts.items() if name.startswith(NAMESPACE) and name.endswith("_cpu")}
    # Two layers see knowledge, one of which is the evidence layer.
    assert called == {NAMESPACE + op: 2, NAMESPACE + "evidence_mass_cpu": 1}
