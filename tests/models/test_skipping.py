"""Options of `attach` that trade exactness for reading less: a threshold for values, one choice of triples a batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kblam.errors import KnowledgeError
from kblam.generation.evidence import EvidenceRecorder
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import Attachment, attach, attachment_of
from kblam.models.resident import resident_for
from kblam_kernels import DenseKnowledge, LatentKnowledge, native
from tests.fakes import HashingEncoder
from tests.kernels.cpu.pinned import HAVE_BYTES
from tests.models.conftest import Tied, tie
from tests.models.tiny import EMBEDDING_DIM, close, differ, logits, prompts
from tests.reading import no_reading

IDS, MASK = prompts()
TRIPLES = 300
# All but the first tile of 128 tokens weigh next to nothing.
PEAKED = torch.zeros(TRIPLES).masked_fill(torch.arange(TRIPLES) >= 100, -30.0)


@pytest.fixture(scope="module")
def kb() -> Iterator[KnowledgeBase]:
    facts = [Triple(f"thing {number}", "color", f"value {number}") for number in range(TRIPLES)]
    with KnowledgeBase.from_triples(facts, HashingEncoder(EMBEDDING_DIM)) as kb:
        yield kb


def seen(attachment: Attachment, kb: KnowledgeBase, bias: Tensor | float = PEAKED) -> Tensor:
    """Logits with knowledge."""
    with attachment.using(resident_for(attachment, kb), bias=bias):
        return logits(attachment.model, IDS, MASK)


def test_tiles_that_weigh_nothing_are_skipped_and_counted(tied: Tied, kb: KnowledgeBase) -> None:
    exact = attach(tied.model, tied.adapter, plan="latent", backend="cpu")
    expected = seen(exact, kb)
    assert exact.skip_counts.tolist() == [0, 0]
    skipping = attach(tied.model, tied.adapter, plan="latent", backend="cpu", skip_threshold=1e-4)
    counts = skipping.skip_counts
    assert attach(tied.model, tied.adapter, plan="latent", backend="cpu", skip_threshold=1e-4) is skipping
    close(seen(skipping, kb), expected)
    skipped, visited = counts.tolist()
    assert 0 < skipped < visited
    seen(skipping, kb)
    assert counts.tolist() == [2 * skipped, 2 * visited], "over all passes"
    counts.zero_()
    # A bound, not a switch: what weighs more is read.
    seen(skipping, kb, bias=0.0)
    assert counts.tolist() == [0, visited]


def test_int8_products_reach_the_kernels_and_int8_latents_alone(tied: Tied, kb: KnowledgeBase) -> None:
    found = {}
    for storage in ("int8", "float16"):
        for allowed in (False, True):
            asked = {"plan": "latent", "backend": "cpu", "storage": storage, "int8_products": allowed}
            attachment = attach(tied.model, tied.adapter, **asked)
            assert attach(tied.model, tied.adapter, **asked) is attachment
            found[storage, allowed] = seen(attachment, kb, bias=0.0)
    assert torch.equal(found["float16", True], found["float16", False])
    torch.testing.assert_close(found["int8", True], found["int8", False], rtol=0, atol=0.2)
    has_bytes = native.instruction_set() in HAVE_BYTES
    assert torch.equal(found["int8", True], found["int8", False]) != has_bytes


@pytest.mark.parametrize("plan", ["dense", "materialise", "decode=dense,prefill=latent"])
def test_where_dense_knowledge_is_read_nothing_is_skipped(plan: str, tied: Tied, kb: KnowledgeBase) -> None:
    answers = []
    for threshold in (0.0, 1e-4):
        attachment = attach(tied.model, tied.adapter, plan=plan, skip_threshold=threshold)
        with attachment.using(resident_for(attachment, kb), bias=PEAKED):
            answers.append(tied.model.generate(IDS, attention_mask=MASK, max_new_tokens=4, do_sample=False).tolist())
    assert answers[0] == answers[1]
    assert bool(attachment.skip_counts.any()) == (plan != "dense"), "counted where latents are read"


def test_with_gradients_nothing_is_skipped(tied: Tied, kb: KnowledgeBase) -> None:
    tied.adapter.query_heads.requires_grad_(True)
    attachment = attach(tied.model, tied.adapter, plan="latent", skip_threshold=0.5)
    with attachment.using(resident_for(attachment, kb), bias=PEAKED):
        tied.model(IDS, attention_mask=MASK, labels=IDS).loss.backward()
    assert attachment.skip_counts.tolist() == [0, 0]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_that_cannot_be_is_refused(threshold: float, tied: Tied) -> None:
    with pytest.raises(KnowledgeError, match=r"skip_threshold must be at least 0 \(exact\) and below 1; got"):
        attach(tied.model, tied.adapter, skip_threshold=threshold)
    assert attachment_of(tied.model) is tied.attachment


@torch.no_grad()
def test_counting_reads_nothing_and_compiles(tied: Tied, kb: KnowledgeBase) -> None:
    torch._dynamo.reset()
    with torch.inference_mode():  # made there, counted outside
        attachment = attach(tied.model, tied.adapter, plan="latent", backend="cpu", skip_threshold=1e-4)
    with attachment.using(resident_for(attachment, kb), bias=PEAKED):
        with no_reading():
            tied.model(IDS)
        eager = attachment.skip_counts.tolist()
        torch.compile(tied.model, fullgraph=True, backend="aot_eager")(IDS)
    assert eager[0] > 0
    assert attachment.skip_counts.tolist() == [2 * count for count in eager]
    torch._dynamo.reset()


@pytest.mark.parametrize("plan", ["latent", "dense"])
def test_one_choice_of_triples_for_the_batch(plan: str, kb: KnowledgeBase) -> None:
    tied = tie(top_k=4, knowledge_scale=4.0)
    attachment = attach(tied.model, tied.adapter, plan=plan, top_k_shared=True)
    chosen: list[tuple[object, Tensor]] = []
    recorder = EvidenceRecorder()
    with attachment.observing(lambda **what: chosen.append((what["knowledge"], what["index"])) or recorder(**what)):
        together = seen(attachment, kb, bias=0.0)
    ((knowledge, index),) = chosen
    assert index.shape == (2, 4)
    assert torch.equal(index[0], index[1])
    assert isinstance(knowledge, LatentKnowledge if plan == "latent" else DenseKnowledge)
    assert set(recorder.rows[0][0].tolist()) == set(index[0].tolist())
    own = attach(tied.model, tied.adapter, plan=plan)
    assert differ(seen(own, kb, bias=0.0), together), "a row's own choice is another one"
    # Alone in its batch a row has its own choice anyway; the second has no padding.
    with own.using(resident_for(own, kb)):
        alone = logits(tied.model, IDS[1:])
    shared = attach(tied.model, tied.adapter, plan=plan, top_k_shared=True)
    with shared.using(resident_for(shared, kb)):
        close(logits(tied.model, IDS[1:]), alone)


def test_latents_and_keys_make_the_same_shared_choice(kb: KnowledgeBase) -> None:
    tied = tie(top_k=4, knowledge_scale=4.0)
    found = []
    for plan in ("latent", "dense"):
        found.append(seen(attach(tied.model, tied.adapter, plan=plan, top_k_shared=True), kb, bias=0.0))
    close(*found)
