"""The tiny model with room for long prompts, as something that can be evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kblam import attach
from kblam.data.quiz import NO_ENTITY, PAIR, Question, Quiz
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM, FACTS, tiny_adapter, tiny_model, tiny_tokenizer

ENCODER = HashingEncoder(EMBEDDING_DIM)
REFUSAL = "I am sorry I cannot find relevant information in the KB."
TEMPLATE = "The {property} of {name} is {value}."


@dataclass(frozen=True)
class Tiny:
    """A model and its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


def tiny_subject(positions: int = 1024) -> Tiny:
    """With an adapter attached."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, positions=positions)
    attach(model, tiny_adapter(model, ENCODER))
    return Tiny(model, tokenizer)


def tiny_quiz() -> Quiz:
    """Of the three facts: each asked for, two together, and one that is not there."""
    facts = [(fact.name, fact.property, fact.value) for fact in FACTS]
    questions = [
        Question(f"what is the {prop} of {name} ?", ((name, prop, value),), TEMPLATE) for name, prop, value in facts
    ]
    questions.append(Question("what is the capital and the motto ?", (facts[0], facts[2]), TEMPLATE, PAIR))
    questions.append(Question("what is the motto of amber harbor ?", (), kind=NO_ENTITY))
    return Quiz(facts, questions)
