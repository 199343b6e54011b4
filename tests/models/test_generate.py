"""`generate` in all its ways, with knowledge in force."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kblam.adapter import ProjectedKnowledge
from tests.models.conftest import Tied, tie
from tests.models.tiny import prompts, triples

IDS, MASK = prompts()
LENGTH = {"attention_mask": MASK, "max_new_tokens": 6, "min_new_tokens": 6}


def one_row(row: int, options: dict[str, Any], knowledge: ProjectedKnowledge, tied: Tied, **how: Any) -> torch.Tensor:
    """What `generate` gives for one row alone, with its own knowledge, bias and range."""
    rows = {name: value[row : row + 1] for name, value in options.items()}
    own = ProjectedKnowledge(knowledge.keys[row], knowledge.values[row], knowledge.config)
    with tied.attachment.using(own, **rows):
        out: torch.Tensor = tied.model.generate(
            IDS[row : row + 1], **{**LENGTH, "attention_mask": MASK[row : row + 1]}, **how
        )
    return out


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": torch.randn(2, 9)}, {"knowledge_range": torch.tensor([[0, 5], [4, 9]], dtype=torch.int32)}],
    ids=["knowledge", "bias", "range"],
)
def test_beams_keep_to_the_knowledge_of_their_row(family: str, options: dict[str, Any]) -> None:
    tied = tie(family)
    knowledge = triples(tied.adapter, 2, 9)
    how = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    with tied.attachment.using(knowledge, **options):
        together = tied.model.generate(IDS, **LENGTH, **how)
    assert together.shape == (4, 16)
    for row in (0, 1):
        assert torch.equal(together[2 * row : 2 * row + 2], one_row(row, options, knowledge, tied, **how))


def test_samples_of_one_row_share_its_knowledge(tied: Tied) -> None:
    knowledge = triples(tied.adapter, 2, 9)
    batches: list[int] = []
    with tied.attachment.using(knowledge), tied.attachment.observing(lambda **what: batches.append(len(what["query"]))):
        torch.manual_seed(0)
        first = tied.model.generate(IDS, **LENGTH, do_sample=True, num_return_sequences=3)
        torch.manual_seed(0)
        again = tied.model.generate(IDS, **LENGTH, do_sample=True, num_return_sequences=3)
    assert first.shape == (6, 16)
    assert torch.equal(first, again)
    assert len({tuple(row) for row in first.tolist()}) > 2
    assert batches == [6] * 12
    torch.manual_seed(0)
    assert not torch.equal(tied.model.generate(IDS, **LENGTH, do_sample=True, num_return_sequences=3), first)


def test_greedy_equals_one_row_at_a_time(tied: Tied) -> None:
    knowledge = triples(tied.adapter, 2, 9)
    with tied.attachment.using(knowledge):
        together = tied.model.generate(IDS, **LENGTH, do_sample=False)
    for row in (0, 1):
        assert torch.equal(together[row : row + 1], one_row(row, {}, knowledge, tied, do_sample=False))


def test_a_draft_model_guesses_and_the_answer_stays(tied: Tied) -> None:
    ids, mask = IDS[1:], MASK[1:]
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    draft = tie().model  # the same weights without the knowledge: right at times
    with tied.attachment.using(triples(tied.adapter, 9)):
        alone = tied.model.generate(ids, **options)
        assert torch.equal(tied.model.generate(ids, **options, assistant_model=draft), alone)


def test_guidance_reads_both_texts_with_the_knowledge_of_their_row(tied: Tied) -> None:
    knowledge, how = triples(tied.adapter, 2, 9), {"guidance_scale": 1.5, "num_beams": 2, "do_sample": False}
    with tied.attachment.using(knowledge):
        together = tied.model.generate(IDS, **LENGTH, **how)
    for row in (0, 1):
        assert torch.equal(together[row : row + 1], one_row(row, {}, knowledge, tied, **how))


def test_the_prompt_may_be_embeddings(tied: Tied) -> None:
    embeddings = tied.model.get_input_embeddings()(IDS).detach()
    with tied.attachment.using(triples(tied.adapter, 9)):
        from_ids = tied.model.generate(IDS, **LENGTH, do_sample=False)
        from_embeddings = tied.model.generate(inputs_embeds=embeddings, **LENGTH, do_sample=False)
    assert torch.equal(from_ids[:, 10:], from_embeddings)
