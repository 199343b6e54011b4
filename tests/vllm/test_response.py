"""What a response says of an answer that was decided; vLLM itself is asked in `engine/test_answers.py`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kblam.adapter.sentences import Sentence
from kblam.generation.decision import Decision
from kblam.generation.plan import plan
from kblam.generation.wording import Wordings
from kblam.vllm.response import Response
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
