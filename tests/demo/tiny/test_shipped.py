"""The weights in the repository: small enough, described truthfully, and they answer."""

from __future__ import annotations

import json

import pytest

from kblam.demo.tiny.assets import ASSETS, load
from kblam.demo.tiny.card import write_card
from kblam.demo.tiny.quiz import demo_quiz
from kblam.demo.tiny.tokenizer import real_words
from kblam.demo.tiny.train import Recipe
from kblam.demo.tiny.world import build_world, world_words
from kblam.evaluation.figures import Figures, score
from kblam.evaluation.loop import answer_quiz, triples_of
from kblam.generation import ask
from kblam.knowledge import KnowledgeBase, Triple, load_encoder


@pytest.fixture(scope="module")
def demo():
    return load()


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("minilm")


def test_weights_are_small() -> None:
    size = sum(path.stat().st_size for path in ASSETS.rglob("*.safetensors"))
    assert 10e6 < size < 25e6
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 25e6


def test_the_model_is_a_plain_llama_in_the_promised_range(demo) -> None:
    assert type(demo.model).__name__ == "LlamaForCausalLM"
    parameters = sum(p.numel() for module in (demo.model, demo.attachment.adapter) for p in module.parameters())
    assert 2e6 < parameters < 10e6


def test_the_adapter_names_the_encoder_it_needs(demo, encoder) -> None:
    assert demo.attachment.config.encoder == encoder.fingerprint


def test_the_card_is_written_from_what_was_measured(demo, tmp_path) -> None:
    metrics = json.loads((ASSETS / "metrics.json").read_text(encoding="utf-8"))
    rows = {name: Figures(**values) for name, values in metrics.items()}
    parameters = sum(p.numel() for module in (demo.model, demo.attachment.adapter) for p in module.parameters())
    recipe = Recipe()
    write_card(
        tmp_path, rows, seed=recipe.seed, steps=recipe.all_steps, parameters=parameters, words=len(world_words())
    )
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == (ASSETS / "README.md").read_text(encoding="utf-8")


def test_held_out_questions_are_answered(demo, encoder) -> None:
    quiz = demo_quiz(build_world(real_words()).test_grid, 100, questions=40)
    with KnowledgeBase.from_triples(triples_of(quiz), encoder) as knowledge_base:
        figures = score(quiz.questions, answer_quiz(demo, knowledge_base, quiz))
    assert figures.exact >= 0.95
    assert figures.top1 >= 0.97
    assert figures.refusal_f1 >= 0.93


def test_a_fact_about_an_invented_entity_is_learned(demo, encoder) -> None:
    quiz = demo_quiz(build_world(real_words()).test_grid, 100)
    question = "What is the treasure of Zorblax Quellin?"
    with KnowledgeBase.from_triples(triples_of(quiz), encoder) as knowledge_base:
        before = ask(demo.model, knowledge_base, question, tokenizer=demo.tokenizer)
        fact = Triple("Zorblax Quellin", "treasure", "stolen map of a dragon")
        knowledge_base.add(fact)
        after = ask(demo.model, knowledge_base, question, tokenizer=demo.tokenizer)
    assert before.refused
    assert after.text == "the treasure is stolen map of a dragon."
    assert after.evidence[0].triple == fact
