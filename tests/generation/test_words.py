"""Evidence has the words that the answer was made from, also if somebody changes the file meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria

from kblam import KnowledgeBase, Triple, ask
from tests.generation.conftest import World
from tests.generation.tiny import FACTS, make_prefer

QUESTION = "What is the motto of Silver Meadow?"


class Change(StoppingCriteria):
    """Changes a fact through another connection after the first token."""

    def __init__(self, file: Path, world: World, triple: Triple) -> None:
        self.file, self.world, self.triple, self.seen = file, world, triple, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.seen += 1
        if self.seen == 1:
            with KnowledgeBase.open(self.file, self.world.encoder) as elsewhere:
                elsewhere.add(self.triple)
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("pointer", [False, True])
def test_a_change_while_answering_is_marked_and_not_shown(world: World, tmp_path: Path, pointer: bool) -> None:
    file = tmp_path / "facts.kb"
    object.__setattr__(world.adapter.config, "pointer", pointer)
    make_prefer(world.model, world.adapter, world.encoder, FACTS[2], strength=1.0)
    with KnowledgeBase.create(file, world.encoder) as kb:
        kb.add(FACTS)
        options = {"tokenizer": world.tokenizer, "max_new_tokens": 3, "top": 3}
        before = ask(world.model, kb, QUESTION, **options)
        assert [one.changed for one in before.evidence] == [False] * 3
        change = Change(file, world, Triple("Silver Meadow", "motto", "Basalt"))
        during = ask(world.model, kb, QUESTION, stopping_criteria=[change], **options)
        after = ask(world.model, kb, QUESTION, **options)
    assert [(one.triple, one.mass) for one in during.evidence] == [(one.triple, one.mass) for one in before.evidence]
    assert {one.triple.name: one.changed for one in during.evidence} == {
        "Silver Meadow": True,
        "Amber Falcon": False,
        "Quiet Harbor": False,
    }
    strongest = after.evidence[0]
    assert (strongest.triple.value, strongest.changed) == ("Basalt", False)
