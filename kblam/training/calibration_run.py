"""Thresholds of a finished adapter, chosen anew: on a user's own triples, or on synthetic facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from kblam.adapter import KnowledgeAdapter
from kblam.data.entities import Entity
from kblam.data.properties import TYPED
from kblam.knowledge import Encoder, Triple
from kblam.knowledge.encoders import Progress
from kblam.models import attach, detach
from kblam.models.loading import load_base, load_tokenizer
from kblam.models.prompt import question_ids
from kblam.training.calibrate import Calibration, calibrate
from kblam.training.material import entities_of, held_out_entities, some
from kblam.training.properties import QUESTIONS, STEPS, PropertyQuestions, is_kept, learn_head, with_head
from kblam.training.questions import Facts, calibration_questions
from kblam.training.vectors import Vectors


def recalibrate(
    adapter: KnowledgeAdapter,
    base: str,
    encoder: Encoder,
    *,
    cache: Path,
    triples: Sequence[Triple] = (),
    questions: int = 600,
    property_questions: int = QUESTIONS,
    property_steps: int = STEPS,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[KnowledgeAdapter, Calibration]:
    """The same adapter with a confidence for a knowledge base.

    Args:
        adapter: of the model.
        base: the model it was trained for.
        encoder: of the knowledge base.
        cache: folder for sentence vectors.
        triples: what questions are made of; none takes synthetic facts of the kind that training holds out.
        questions: how many, before each is asked again without its fact.
        property_questions, property_steps: of the property head, as a training config has them.
        seed: of the drawing.

    Raises:
        ModelFolderError, UnsupportedModelError, EncoderError: as loading and attaching do.
    """
    model, tokenizer = load_base(base, device=device), load_tokenizer(base)
    entities: list[Entity] = entities_of(some(triples, seed, say)) or held_out_entities(seed)
    facts = Facts(entities)
    asked = calibration_questions(facts, questions, seed + 1, is_kept)
    own = (prop for _, prop in facts.identities) if triples else ()
    properties = PropertyQuestions.draw(own, count=property_questions, seed=seed)
    texts = [*facts.key_texts, *facts.values, *properties.key_texts, *properties.texts, *(one.text for one in asked)]
    vectors = Vectors(texts, encoder, cache, progress)
    head = learn_head(properties, vectors, steps=property_steps)
    unknowing = learn_head(properties, vectors, steps=property_steps, all_phrasings=False)
    fresh = with_head(adapter, head, background=tuple(TYPED))
    attachment = attach(model, fresh.eval())
    prompts = [question_ids(one.text, attachment, tokenizer) for one in asked]
    found = calibrate(attachment, facts, asked, vectors, prompts, encoder, unknowing)
    detach(model)
    fresh.config = dataclasses.replace(
        fresh.config,
        known_above=found.known_above,
        confidence=found.confidence,
    )
    return fresh, found
