"""A pass as far as the evidence layer sees what a whole pass sees, and leaves the same behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from kblam import KnowledgeBase
from kblam.generation.evidence import EvidenceRecorder
from kblam.generation.prompt import encode_question, left_padded
from kblam.models.copies import reading
from kblam.models.reach import read_to_evidence
from tests.generation.asking import FACTS, Asked, QuestionEncoder, attached, byte_bpe
from tests.generation.test_pointer import CURRENCY, FOUNDER
from tests.generation.tiny import EMBEDDING_DIM


@pytest.fixture
def asked() -> Iterator[Asked]:
    tokenizer, encoder = byte_bpe(), QuestionEncoder(EMBEDDING_DIM)
    model, attachment = attached(tokenizer, encoder)
    with KnowledgeBase.from_triples(FACTS, encoder) as kb:
        yield Asked(model, tokenizer, attachment, encoder, kb)


def prompts(asked: Asked) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = [encode_question(question, asked.attachment, asked.tokenizer) for question in (CURRENCY, FOUNDER)]
    ids, mask = left_padded(rows, 0, asked.attachment.device)
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


@torch.inference_mode()
def test_it_sees_what_a_whole_pass_sees(asked: Asked) -> None:
    (ids, mask, places), whole, part = prompts(asked), EvidenceRecorder(), EvidenceRecorder()
    caches = DynamicCache(config=asked.model.config), DynamicCache(config=asked.model.config)
    above: list[int] = []
    asked.model.model.layers[1].register_forward_pre_hook(lambda layer, given: above.append(1))
    vectors = asked.session().question_vectors([CURRENCY, FOUNDER])
    with reading(asked.attachment, asked.kb) as resident, asked.attachment.using(resident, question=vectors):
        with asked.attachment.observing(whole):
            asked.model.model(ids, attention_mask=mask, position_ids=places, past_key_values=caches[0])
        assert len(above) == 1
        read_to_evidence(asked.attachment, part, ids, mask, places, caches[1])
    assert len(above) == 1, "no layer above the evidence layer is computed"
    assert part.newest() == whole.newest()
    for ours, theirs in zip((caches[1].layers[0].keys, caches[1].layers[0].values), keys_of(caches[0]), strict=True):
        assert torch.equal(ours, theirs)


@torch.inference_mode()
@pytest.mark.parametrize("top_k", [None, 2])
def test_tokens_that_nobody_looks_at_are_not_attended_for(top_k: int | None) -> None:
    """The best few triples are those of all tokens all the same."""
    tokenizer, encoder = byte_bpe(), QuestionEncoder(EMBEDDING_DIM)
    model, attachment = attached(tokenizer, encoder, top_k=top_k)
    with KnowledgeBase.from_triples(FACTS, encoder) as kb:
        asked = Asked(model, tokenizer, attachment, encoder, kb)
        (ids, mask, places), whole, part = prompts(asked), dict[str, Any](), dict[str, Any]()
        vectors = asked.session().question_vectors([CURRENCY, FOUNDER])
        with reading(attachment, kb) as resident, attachment.using(resident, question=vectors):
            read_to_evidence(attachment, whole.update, ids, mask, places)
            read_to_evidence(attachment, part.update, ids, mask, places, newest=3)
    assert whole["query"].shape[2] == ids.shape[1] > 3
    for name in ("query", "lse"):
        assert part[name].shape[2] == 3
        torch.testing.assert_close(part[name], whole[name][:, :, -3:])
    assert (part["index"] is None) == (top_k is None)
    assert part["index"] is None or torch.equal(part["index"], whole["index"])


@torch.inference_mode()
@pytest.mark.parametrize("why", ["compiled", "a module's end"])
def test_a_pass_that_goes_on_attends_for_all_tokens(asked: Asked, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (ids, mask, places), seen = prompts(asked), dict[str, Any]()
    if why == "compiled":
        monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    else:
        asked.model.model.layers[1].register_forward_hook(lambda layer, given, output: None)
    vectors = asked.session().question_vectors([CURRENCY, FOUNDER])
    with reading(asked.attachment, asked.kb) as resident, asked.attachment.using(resident, question=vectors):
        read_to_evidence(asked.attachment, seen.update, ids, mask, places, newest=1)
    assert seen["lse"].shape[2] == ids.shape[1]


def keys_of(cache: DynamicCache) -> tuple[torch.Tensor, torch.Tensor]:
    return cache.layers[0].keys, cache.layers[0].values


@torch.inference_mode()
def test_nothing_stays_behind(asked: Asked) -> None:
    """The next call of the model is an ordinary one, and an observer's own error is told."""
    (ids, mask, places), recorder = prompts(asked), EvidenceRecorder()
    before = asked.model(ids, attention_mask=mask, position_ids=places).logits

    def broken(**attention: Any) -> None:
        raise RuntimeError("of the observer")

    vectors = asked.session().question_vectors([CURRENCY, FOUNDER])
    with reading(asked.attachment, asked.kb) as resident, asked.attachment.using(resident, question=vectors):
        read_to_evidence(asked.attachment, recorder, ids, mask, places)
        with pytest.raises(RuntimeError, match="of the observer"):
            read_to_evidence(asked.attachment, broken, ids, mask, places)
    assert len(recorder.masses) == 1
    assert torch.equal(asked.model(ids, attention_mask=mask, position_ids=places).logits, before)


@torch.inference_mode()
def test_compiled_code_is_computed_whole(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of a graph would break it in two."""
    (ids, mask, places), recorder = prompts(asked), EvidenceRecorder()
    above: list[int] = []
    asked.model.model.layers[1].register_forward_pre_hook(lambda layer, given: above.append(1))
    vectors = asked.session().question_vectors([CURRENCY, FOUNDER])
    monkeypatch.setattr("kblam.models.reach.torch.compiler.is_compiling", lambda: True)
    with reading(asked.attachment, asked.kb) as resident, asked.attachment.using(resident, question=vectors):
        read_to_evidence(asked.attachment, recorder, ids, mask, places)
    assert above == [1]
    assert len(recorder.masses) == 1


@torch.inference_mode()
def test_a_module_that_accelerate_wraps_is_computed_to_its_end(asked: Asked) -> None:
    """Its hook is no hook of torch's, and moves the weights away again behind the module."""
    (ids, mask, places), recorder = prompts(asked), EvidenceRecorder()
    above: list[int] = []
    asked.model.model.layers[1].register_forward_pre_hook(lambda layer, given: above.append(1))
    asked.model.model.layers[0]._hf_hook = object()
    vectors = asked.session().question_vectors([CURRENCY, FOUNDER])
    with reading(asked.attachment, asked.kb) as resident, asked.attachment.using(resident, question=vectors):
        read_to_evidence(asked.attachment, recorder, ids, mask, places)
    assert above == [1]


@torch.inference_mode()
def test_a_hook_that_waits_for_a_module_s_end_gets_it(asked: Asked) -> None:
    """FSDP gives a layer's weights back there; a layer left in the middle would stay whole in every process."""
    (ids, mask, places), recorder = prompts(asked), EvidenceRecorder()
    ended: list[int] = []
    asked.model.model.layers[1].register_forward_hook(lambda layer, given, output: ended.append(1))
    vectors = asked.session().question_vectors([CURRENCY, FOUNDER])
    with reading(asked.attachment, asked.kb) as resident, asked.attachment.using(resident, question=vectors):
        read_to_evidence(asked.attachment, recorder, ids, mask, places)
    assert ended == [1]
    assert len(recorder.masses) == 1
