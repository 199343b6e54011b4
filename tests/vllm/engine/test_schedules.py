"""A small cache and small steps: prompts in pieces, and requests that are put off and begin again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vllm.v1.core.sched.scheduler import Scheduler

from experiments.vllm_equality import pointing
from kblam import KnowledgeAdapter
from kblam.vllm import scheduler
from tests.vllm.engine import decided, engines
from tests.vllm.engine.engines import Reference, Request, ask, assert_alike, knowledge_of, said_by

LONG = "tell me about the treasure of the old king and the festival of the green garden . " * 4


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that are preempted from now on."""
    preempted: list[str] = []
    plain = Scheduler._preempt_request

    def counting(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        preempted.append(request.request_id)
        return plain(self, request, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "_preempt_request", counting)
    return preempted


def test_prompts_in_pieces_and_requests_that_begin_again_say_what_attach_says(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    preempted = counted(monkeypatch)
    engine = engines.start(
        engines.settings(bases, storage="float32"),
        max_num_batched_tokens=16,
        enable_chunked_prefill=True,
        num_gpu_blocks_override=13,
    )
    reference = Reference(bases, storage="float32")
    rows = [Request(one.question, one.base, LONG if at % 2 else "") for at, one in enumerate(engines.requests(3))]
    tokens = 48
    outputs = ask(engine, rows, max_tokens=tokens, min_tokens=tokens)
    assert preempted  # or nothing was tried
    expected = [reference.say(row, tokens) for row in rows]
    assert_alike([said_by(output) for output in outputs], expected)
    for output, one in zip(outputs, expected, strict=True):
        if one.best is not None:
            assert knowledge_of(output)["evidence"][0]["mass"] == pytest.approx(one.best[1], abs=1e-4)


def test_answers_go_on_where_they_were_after_requests_began_again(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preempted = counted(monkeypatch)
    adapter = pointing(engines.ADAPTER, tmp_path)
    given = engines.settings(bases, adapter=str(adapter), storage="float32")
    engine = engines.start(
        given, max_num_batched_tokens=16, enable_chunked_prefill=True, num_gpu_blocks_override=6, max_model_len=128
    )
    reference = Reference(bases, KnowledgeAdapter.from_pretrained(adapter), storage="float32")
    asked = [
        (base, question)
        for base, question in decided.every_kind()
        if " and " in question or question.startswith("Tell")
    ]
    # One that a stop string may end is said token by token; others are read together, in pieces too.
    outputs = decided.ask(engine, asked, stop=["nowhere"])
    assert any("?" not in one for one in preempted)  # an answer, not only what looks something up
    answers = decided.expected(reference, asked)
    decided.assert_answered(outputs, answers)
    decided.assert_answered(decided.ask(engine, asked), answers)


def test_both_of_vllms_schedulers_can_have_knowledge() -> None:
    assert issubclass(scheduler.AsyncKnowledgeScheduler, scheduler.AsyncScheduler)
    assert scheduler.AsyncKnowledgeScheduler.__mro__[1] is scheduler.WithKnowledge
