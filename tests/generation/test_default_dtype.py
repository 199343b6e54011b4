"""Whatever torch's default dtype is, a float32 model says the same, with the same evidence and the same judgement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kblam import KnowledgeBase, ask, attach
from kblam import test as selftest
from kblam.models.judging import Judge
from tests.fakes import HashingEncoder
from tests.generation.conftest import World
from tests.generation.tiny import FACTS
from tests.models.judges import adapter, judged, vectors

QUESTION = "what is the capital of amber falcon ?"


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=str)
def under_another(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Runs a call while the default dtype is another."""

    def run(call: Callable[[], Any]) -> Any:
        torch.set_default_dtype(request.param)
        try:
            return call()
        finally:
            torch.set_default_dtype(torch.float32)

    return run


@pytest.mark.parametrize("options", [{}, {"storage": "int8", "plan": "latent"}], ids=["auto", "int8"])
def test_an_answer_and_its_evidence_are_the_same(world: World, options: dict[str, str], under_another: Any) -> None:
    def answered() -> tuple[str, list[Any]]:
        attach(world.model, world.adapter, **options)
        with KnowledgeBase.from_triples(FACTS, world.encoder) as kb:
            answer = ask(world.model, kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=4)
        return answer.text, [(item.triple, item.mass) for item in answer.evidence]

    assert under_another(answered) == answered()


@pytest.mark.parametrize("properties", [["price", "weight"], []], ids=["two", "none"])
def test_a_judgement_is_the_same(properties: list[str], under_another: Any) -> None:
    encoder, asking = HashingEncoder(16), adapter()
    asked = [judged("What is the price of Anvil 3?", ("Anvil 3", "price", 0.25))] if properties else []

    def signs() -> Any:
        return Judge(asking, lambda texts: vectors(encoder, texts), properties).signs(asked)

    assert under_another(signs) == signs()


@pytest.mark.parametrize("check", [selftest.kernels_agree, selftest.empty_knowledge_changes_nothing])
def test_the_self_test_passes(check: Callable[[], str], under_another: Any) -> None:
    assert under_another(check)
