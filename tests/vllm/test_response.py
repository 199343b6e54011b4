"""What a response says of an answer that was decided; vLLM itself is asked in `engine/test_answers.py`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kblam.adapter.sentences import Sentence
from kblam.errors import (
    EngineRequestError,
    GenerationError,
    KblamError,
    RenderingError,
    StoreError,
    StoreReplacedError,
)
from kblam.generation.decision import Decision
from kblam.generation.plan import plan
from kblam.generation.wording import Wordings
from kblam.vllm.response import Response, said_of
from tests.generation.asking import byte_bpe

REFUSAL = "I am sorry I cannot find relevant information in the KB."


def test_a_refusal_that_is_cut_short_is_one() -> None:
    tokenizer: Any = byte_bpe()
    decider: Any = SimpleNamespace(asked=SimpleNamespace(config=SimpleNamespace(refusal=REFUSAL)), tokenizer=tokenizer)
    loaded: Any = SimpleNamespace(revision=1)
    response = Response("facts", loaded, None, 0, may_end_early=False)  # type: ignore[arg-type]
    decided = Decision(0.1, sentence=Sentence(REFUSAL), is_forced=True)
    response.plan = plan(decided, [], Wordings(tokenizer), tokenizer.eos_token_id)
    said = response.said(response.plan.tokens[:3], decider)
    assert said["refused"]
    assert REFUSAL.startswith(said["text"])
    assert said["text"] != REFUSAL


@pytest.mark.parametrize(
    ("error", "more"),
    [
        (EngineRequestError("why"), {"of_request": True}),
        (GenerationError("why"), {"of_request": True}),
        (RenderingError("why"), {"of_request": False}),
        (StoreError("why"), {"of_request": False}),
        (StoreReplacedError("why"), {"of_request": False, "replaced": True}),
    ],
    ids=["of the request", "of its question", "of a process", "of the file", "replaced"],
)
def test_what_is_refused_says_of_what_it_is(error: KblamError, more: dict[str, bool]) -> None:
    assert said_of(error) == {"error": "why", **more}


def test_evidence_of_a_file_that_was_replaced_says_so() -> None:
    def gone(_: object) -> None:
        raise StoreReplacedError("why")

    response = Response("facts", SimpleNamespace(revision=3), SimpleNamespace(of=gone), 5, may_end_early=False)  # type: ignore[arg-type]
    assert response.said([], None) == {"knowledge_base": "facts", "revision": 3, "error": "why", "replaced": True}
