"""A text that the encoder cannot read whole is asked about by its question, wherever that stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from kblam.evaluation.force import in_force
from kblam.generation.rag import Retriever
from kblam.models.copies import reading
from tests.generation.asking import Asked, asking, byte_bpe
from tests.generation.test_pointer import CURRENCY, EURO, FOUNDER, LUCJA

WINDOW = 20  # words
CONTEXT = "The sky is blue and the grass is green today. " * 3
LONG = [CONTEXT + CURRENCY, CURRENCY + " " + CONTEXT, CONTEXT + FOUNDER + " " + CONTEXT]
SAID = [EURO, EURO, LUCJA]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """Its encoder reads twenty words of a text, and tells that."""
    with asking(byte_bpe()) as asked:
        encode = asked.encoder.encode

        def read(texts: Sequence[str], **how: Any) -> Any:
            return encode([" ".join(text.split(" ")[:WINDOW]) for text in texts], **how)

        def beyond_limit(texts: Sequence[str]) -> list[int]:
            return [at for at, text in enumerate(texts) if len(text.split(" ")) > WINDOW]

        monkeypatch.setattr(asked.encoder, "encode", read)
        monkeypatch.setattr(asked.encoder, "beyond_limit", beyond_limit, raising=False)
        yield asked


def test_it_is_answered_by_every_way_to_ask(short: Asked) -> None:
    session = short.session()
    assert [session.ask(one, max_new_tokens=60).text for one in LONG] == SAID
    assert [answer.text for answer in session.ask_many([*LONG, CURRENCY], max_new_tokens=60)] == [*SAID, EURO]
    assert [one.is_known for one in session.decisions(LONG)] == [True] * 3
    with session.answering(LONG) as pointer:
        prompt = session.prompt(LONG)
        short.model.generate(**prompt, max_new_tokens=2, do_sample=False, logits_processor=[pointer])
    sentences = [pointer.decision(row).sentence for row in range(3)]
    assert [None if one is None else one.text for one in sentences] == SAID


def test_its_vector_is_that_of_its_question(short: Asked) -> None:
    """And one that the encoder reads whole has the vector that it had, to the bit."""
    session, whole = short.session(), [CURRENCY, "x " * (WINDOW - 1) + "x", "Hi.\nThe sky is blue. " + CURRENCY]
    assert session.question_vectors(whole).equal(torch.from_numpy(short.encoder.encode(whole)))
    part = "The sky is blue and the grass is green today. " + CURRENCY
    assert session.question_vectors(LONG[:1]).equal(torch.from_numpy(short.encoder.encode([part])))
    vectors = []
    short.attachment.using = _keeping(short.attachment.using, vectors)  # type: ignore[method-assign]
    with in_force(short.attachment, short.kb, LONG[:1]):
        pass
    assert vectors[0].equal(session.question_vectors(LONG[:1]))


def _keeping(using: Any, kept: list[torch.Tensor]) -> Any:
    def keeping(resident: Any, **how: Any) -> Any:
        kept.append(how["question"])
        return using(resident, **how)

    return keeping


def test_a_text_given_to_the_attachment_is_read_so_too(short: Asked) -> None:
    found = []
    for question in (LONG[0], short.session().question_vectors(LONG[:1])):
        ids = short.session().prompt(CURRENCY)
        with reading(short.attachment, short.kb) as resident, short.attachment.using(resident, question=question):
            found.append(short.model(**ids).logits)
    assert found[0].equal(found[1])


def test_rag_searches_with_it(short: Asked) -> None:
    assert Retriever(short.kb)(LONG[2], 1)[0][0].triple.name == "Project Nightjar"
