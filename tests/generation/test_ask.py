"""Questions and answers: one and many, what is refused, what a changed knowledge base does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kblam import KnowledgeBase, Triple, ask, ask_many, attach, detach
from kblam.errors import EncoderMismatchError, GenerationError, TooLongError
from kblam.generation.answer import is_refusal
from kblam.models.copies import resident_for
from tests.fakes import HashingEncoder
from tests.generation.conftest import World
from tests.generation.tiny import EMBEDDING_DIM, FACTS, make_prefer, save_base

QUESTIONS = [
    "what is the capital of amber falcon ?",
    "founder of quiet harbor ?",
    "motto ?",
    "what is the motto of silver meadow , and the capital of quiet harbor ?",
]


def test_a_batch_answers_as_its_questions_one_by_one(world: World) -> None:
    options = {"tokenizer": world.tokenizer, "max_new_tokens": 6, "top": 3}
    alone = [ask(world.model, world.kb, question, **options) for question in QUESTIONS]
    together = ask_many(world.model, world.kb, QUESTIONS, **options)
    in_pairs = ask_many(world.model, world.kb, QUESTIONS, batch_size=2, **options)
    assert len({answer.text for answer in alone}) > 1, "the questions must have different answers to tell them apart"
    for others in (together, in_pairs):
        for one, other in zip(alone, others, strict=True):
            assert (one.text, one.num_tokens) == (other.text, other.num_tokens)
            assert [e.triple for e in one.evidence] == [e.triple for e in other.evidence]
            masses = [torch.tensor([e.mass for e in answer.evidence]) for answer in (one, other)]
            torch.testing.assert_close(*masses, atol=1e-5, rtol=1e-4)


def test_an_answer_ends_at_the_end_token(world: World) -> None:
    limit = ask(world.model, world.kb, QUESTIONS[0], tokenizer=world.tokenizer, max_new_tokens=5)
    assert limit.num_tokens == 5
    first = world.tokenizer(limit.text, add_special_tokens=False)["input_ids"][0]
    world.model.generation_config.eos_token_id = [first, 3]
    ended = ask(world.model, world.kb, QUESTIONS[0], tokenizer=world.tokenizer, max_new_tokens=5)
    assert ended.num_tokens == 1


def test_no_questions_no_answers(world: World) -> None:
    assert ask_many(world.model, world.kb, [], tokenizer=world.tokenizer) == []


def test_knowledge_is_in_force_only_while_asking(world: World) -> None:
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        before = world.model(ids).logits
        ask(world.model, world.kb, QUESTIONS[0], tokenizer=world.tokenizer, max_new_tokens=2)
        assert world.attachment.knowledge is None
        assert torch.equal(world.model(ids).logits, before)


@pytest.mark.parametrize("question", ["", "  \n ", "\u200b\ufeff", "\x00"], ids=ascii)
def test_an_empty_question_is_refused(world: World, question: str) -> None:
    with pytest.raises(GenerationError, match="question is empty"):
        ask(world.model, world.kb, question, tokenizer=world.tokenizer)


def test_what_is_no_question_is_an_error_of_ours(world: World) -> None:
    for question, message in (("\ud83d red ?", "half a character at place 0"), (7, "a question is text; got int")):
        with pytest.raises(GenerationError, match=message):
            ask(world.model, world.kb, question, tokenizer=world.tokenizer)  # type: ignore[arg-type]
    for questions, message in (
        (QUESTIONS[0], "takes a list of questions, got one"),
        (None, "or a list of them; got None"),
    ):
        with pytest.raises(GenerationError, match=message):
            ask_many(world.model, world.kb, questions, tokenizer=world.tokenizer)  # type: ignore[arg-type]
    for size in (0, -1, 1.5):
        with pytest.raises(GenerationError, match=f"batch_size must be a whole number of at least 1; got {size}"):
            ask_many(world.model, world.kb, QUESTIONS, tokenizer=world.tokenizer, batch_size=size)  # type: ignore[arg-type]


def test_a_question_longer_than_the_context_is_refused_with_the_numbers(world: World) -> None:
    with pytest.raises(TooLongError, match=r"takes 70 tokens and the answer up to 8; the model has room for 64"):
        ask(world.model, world.kb, "motto " * 70, tokenizer=world.tokenizer, max_new_tokens=8)
    # The same question with a limit that fits would be 63 + 1 tokens.
    assert ask(world.model, world.kb, "motto " * 63, tokenizer=world.tokenizer, max_new_tokens=1).num_tokens == 1


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_several_sequences_a_question_are_refused(world: World, options: dict[str, int]) -> None:
    with pytest.raises(GenerationError, match="one sequence per question"):
        ask(world.model, world.kb, QUESTIONS[0], tokenizer=world.tokenizer, **options)


def test_a_model_without_adapter_is_refused(world: World) -> None:
    detach(world.model)
    with pytest.raises(GenerationError, match=r"call kblam\.attach"):
        ask(world.model, world.kb, QUESTIONS[0], tokenizer=world.tokenizer)


def test_a_knowledge_base_of_another_encoder_is_refused(world: World) -> None:
    with (
        KnowledgeBase.from_triples(FACTS, HashingEncoder(EMBEDDING_DIM, seed=9)) as other,
        pytest.raises(EncoderMismatchError, match="hashing:9"),
    ):
        ask(world.model, other, QUESTIONS[0], tokenizer=world.tokenizer, max_new_tokens=4)


def test_a_model_without_a_name_needs_its_tokenizer(world: World) -> None:
    with pytest.raises(GenerationError, match="pass tokenizer="):
        ask(world.model, world.kb, QUESTIONS[0])


def test_the_tokenizer_is_found_beside_the_model(world: World, tmp_path: Path) -> None:
    world.model.config._name_or_path = str(save_base(tmp_path))
    given = ask(world.model, world.kb, QUESTIONS[0], tokenizer=world.tokenizer, max_new_tokens=4)
    assert ask(world.model, world.kb, QUESTIONS[0], max_new_tokens=4).text == given.text


def test_a_changed_knowledge_base_is_seen_at_the_next_question(world: World, tmp_path: Path) -> None:
    """Without rebuilding: the same tensors stay on the device, also when another process made the change."""
    file = tmp_path / "facts.kb"
    with KnowledgeBase.create(file, world.encoder) as kb:
        kb.add(FACTS)
        make_prefer(world.model, world.adapter, world.encoder, FACTS[1])
        options = {"tokenizer": world.tokenizer, "max_new_tokens": 2, "top": 1}
        first = ask(world.model, kb, QUESTIONS[0], **options).evidence[0]
        assert first.triple == FACTS[1]
        address = resident_for(world.attachment, kb).layer(0).key.data_ptr()
        with KnowledgeBase.open(file, world.encoder) as elsewhere:
            elsewhere.add(Triple("Quiet Harbor", "founder", "Obsidian"))
        second = ask(world.model, kb, QUESTIONS[0], **options).evidence[0]
        assert second.triple.value == "Obsidian"
        with KnowledgeBase.open(file, world.encoder) as elsewhere:
            elsewhere.remove("Quiet Harbor")
        third = ask(world.model, kb, QUESTIONS[0], **options).evidence[0]
        assert third.triple != second.triple
        assert third.triple.name != "Quiet Harbor"
        assert resident_for(world.attachment, kb).layer(0).key.data_ptr() == address


class RemoveWhileAnswering:
    """A streamer that, at the second token, lets another process change the knowledge base."""

    def __init__(self, file: Path, encoder: HashingEncoder, name: str) -> None:
        self.file, self.encoder, self.name = file, encoder, name
        self.seen = 0

    def put(self, _: torch.Tensor) -> None:
        self.seen += 1
        if self.seen == 2:
            with KnowledgeBase.open(self.file, self.encoder) as elsewhere:
                assert elsewhere.remove(self.name) == 1

    def end(self) -> None:
        pass


@pytest.mark.parametrize(
    ("removed", "expected"),
    [("Amber Falcon", ["Silver Meadow", "Quiet Harbor"]), ("Silver Meadow", ["Amber Falcon", "Quiet Harbor"])],
    ids=["another triple moves into its row", "the triple of the evidence itself"],
)
def test_a_removal_while_answering_never_names_the_wrong_triple(
    world: World, tmp_path: Path, removed: str, expected: list[str]
) -> None:
    """Rows of the answer's evidence mean what they meant when the answer began; what is gone is left out."""
    file = tmp_path / "facts.kb"
    make_prefer(world.model, world.adapter, world.encoder, FACTS[2], strength=1.0)
    with KnowledgeBase.create(file, world.encoder) as kb:
        kb.add(FACTS)
        answer = ask(
            world.model,
            kb,
            QUESTIONS[0],
            tokenizer=world.tokenizer,
            max_new_tokens=3,
            streamer=RemoveWhileAnswering(file, world.encoder, removed),
        )
    assert sorted(item.triple.name for item in answer.evidence) == sorted(expected)
    strong = [item.triple.name for item in answer.evidence if item.mass > 0.5]
    assert strong == (["Silver Meadow"] if removed != "Silver Meadow" else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am sorry I cannot find relevant information in the KB.", True),
        ("  i am sorry i cannot find relevant information in the kb", True),
        ("I am sorry I cannot find relevant information in the KB. Ask me more", True),
        ("I am sorry to hear that", False),
        ("The capital is Sorry.", False),
        ("", False),
    ],
)
def test_refusals_are_recognised(text: str, expected: bool) -> None:
    assert is_refusal(text, "I am sorry I cannot find relevant information in the KB.") is expected


def test_without_a_refusal_sentence_nothing_is_a_refusal() -> None:
    assert not is_refusal("Zirconia", "")
    assert not is_refusal("Zirconia", " . ")


def test_an_answer_that_is_the_refusal_sentence_says_so(world: World) -> None:
    answer = ask(world.model, world.kb, QUESTIONS[0], tokenizer=world.tokenizer, max_new_tokens=4)
    assert not answer.refused
    detach(world.model)
    world.adapter.config = replace(world.adapter.config, refusal=answer.text + ".")
    attach(world.model, world.adapter)
    assert ask(world.model, world.kb, QUESTIONS[0], tokenizer=world.tokenizer, max_new_tokens=4).refused
