"""What a confidence is learned from: facts, questions about them and about properties, and the vectors of all texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kblam.counts import many
from kblam.data.entities import Entity
from kblam.data.open_world import build_world
from kblam.knowledge import Encoder, Triple
from kblam.knowledge.encoders import Progress, layered, usual_layers
from kblam.training.config import CALIBRATION_QUESTIONS, MOST_ENTITIES, TrainingConfig
from kblam.training.properties import QUESTIONS, PropertyQuestions, is_kept
from kblam.training.questions import Asked, Facts, calibration_questions
from kblam.training.unlearned import natural_questions, with_unlearned
from kblam.training.vectors import Vectors

# Of the user's own triples; more of them teach nothing that these do not.
MOST_OWN = 20_000


@dataclass(frozen=True)
class CalibrationData:
    """Questions whose answers an adapter has not learned, unless they are about the user's own triples.

    Args:
        facts: of the user's own triples, or of entities that no training run learns from.
        asked: questions about them.
        properties: questions that the property head learns from.
        encoder: of the knowledge bases that the adapter is for.
        vectors: of the facts and the questions about them.
        property_layers: of the encoder, that the property head reads.
        property_vectors: of the texts of `properties`, with these layers.
    """

    facts: Facts
    asked: list[Asked]
    properties: PropertyQuestions
    encoder: Encoder
    vectors: Vectors
    property_layers: tuple[int, ...]
    property_vectors: Vectors

    @property
    def encoded(self) -> int:
        """How many texts were encoded for it; the vectors of the others were kept."""
        return self.vectors.encoded + self.property_vectors.encoded

    @staticmethod
    def gather(
        encoder: Encoder,
        cache: Path,
        triples: Sequence[Triple] = (),
        *,
        questions: int = CALIBRATION_QUESTIONS,
        property_questions: int = QUESTIONS,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> CalibrationData:
        """Draws the questions and encodes what they need.

        Args:
            encoder: of the knowledge bases that the adapter is for.
            cache: folder for sentence vectors.
            triples: the user's own, as `some` has them; none takes synthetic facts.
            questions: how many, before each is asked again without its fact.
            property_questions: how many the property head learns from.
            seed: of the drawing.
            progress: told how many texts are encoded.
        """
        facts = Facts(entities_of(triples) or with_unlearned(held_out_entities(seed), seed))
        # Natural ones of properties that the judging head has not learned; of a user's own it learns all.
        asked = calibration_questions(facts, questions, seed + 1, is_kept, {} if triples else natural_questions())
        own = (prop for _, prop in facts.identities) if triples else ()
        properties = PropertyQuestions.draw(own, count=property_questions, seed=seed)
        vectors = Vectors([*facts.key_texts, *facts.values, *(one.text for one in asked)], encoder, cache, progress)
        layers = usual_layers(encoder)
        of_properties = Vectors([*properties.key_texts, *properties.texts], layered(encoder, layers), cache, progress)
        return CalibrationData(facts, asked, properties, encoder, vectors, layers, of_properties)


def entities_of(triples: Sequence[Triple]) -> list[Entity]:
    """Triples by name; names that differ are different entities."""
    by_name: dict[str, Entity] = {}
    for triple in triples:
        entity = by_name.setdefault(triple.name, Entity(triple.name, {}))
        entity.facts[triple.property] = triple.value
        if triple.key_string is not None:
            entity.keys[triple.property] = triple.key_string
    return list(by_name.values())


def held_out_entities(seed: int) -> list[Entity]:
    """Synthetic entities that no training run of `seed` learns from."""
    return build_world(seed, MOST_ENTITIES + TrainingConfig().calibration_entities, 0).train[MOST_ENTITIES:]


def some(triples: Sequence[Triple], seed: int, say: Callable[[str], None]) -> Sequence[Triple]:
    """All triples, or those of names drawn until their vectors take minutes; `say` is told then.

    Names come with all their triples: a question whose fact is missing is hard because of what else its name has. Only
    a name that has more than `MOST_OWN` by itself comes with so many of them.
    """
    if len(triples) <= MOST_OWN:
        return triples
    by_name: dict[str, list[Triple]] = {}
    for triple in triples:
        by_name.setdefault(triple.name, []).append(triple)
    rng, drawn, names = random.Random(seed), list[Triple](), 0
    for name in rng.sample(list(by_name), len(by_name)):
        own = by_name[name]
        drawn += own if len(own) <= MOST_OWN else rng.sample(own, MOST_OWN)
        names += 1
        if len(drawn) >= MOST_OWN:
            break
    say(f"of {len(triples):,} triples, {len(drawn):,} are looked at: those of {many(names, 'name')} drawn at random")
    return drawn
