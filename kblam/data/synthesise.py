"""Entities with facts, written by a language model behind an OpenAI-compatible `/chat/completions` endpoint."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kblam.data.endpoint import ChatClient, Endpoint, beginning, json_in
from kblam.data.journal import Journal
from kblam.data.meaning import same_meaning
from kblam.errors import DataServerError, TripleFormatError, argument
from kblam.knowledge.records import triples_of
from kblam.knowledge.triples import Triple

LONGEST_NAME = 100  # characters
LONGEST_PROPERTY = 60
LONGEST_VALUE = 400
FEWEST_FACTS = 2
ENTITIES_A_REPLY = 10
USELESS_REPLIES = 5  # in a row, before giving up
_NAMES_TO_AVOID = 40

PROMPT = """Invent {count} entities{topic}: people, places, organisations, projects, products, works, and others.
None of them exists. Give each a name of its own and 4 to 7 facts: short property names in small letters, such as
"founder" or "melting point", and values of 1 to 20 words, among them numbers, dates, codes, names in several languages,
and sentences. Some properties of an entity should be close in meaning, but not the same. Do not use these names:
{avoid}.
Answer with JSON alone: {{"entities": [{{"name": "...", "facts": {{"property": "value"}}}}]}}"""


class Entities(Journal[list[Triple]]):
    """Entities that are in no file yet, by their names."""

    _key, _work = "entity", ("a", "run of `kblam data synthesise`")
    _is_passing = True

    def _fields(self, kept: list[Triple]) -> dict[str, Any]:
        return {"triples": [triple.to_record() for triple in kept]}

    def _answer(self, entry: Mapping[str, Any]) -> list[Triple]:
        triples = [triple for record in entry["triples"] for triple in triples_of(record)]
        if not triples:
            raise ValueError("an entity without facts")
        return triples


def synthesise(
    endpoint: Endpoint, entities: int, *, topic: str = "", taken: Collection[str] = ()
) -> Iterator[list[Triple]]:
    """Yields the triples of one new entity at a time, until there are enough.

    What the model writes is checked: an entity without a name of its own or with fewer than two usable facts is left
    out, as is a fact that says what another one says, or is too long.

    Args:
        endpoint: the server and the model.
        entities: how many.
        topic: what they should have to do with, in a few words.
        taken: names that are there already.

    Raises:
        EncoderError: the address cannot be used.
        DataError: the key or the model cannot be used.
        DataServerError: the server keeps failing, or five replies in a row hold no new entity.
    """
    names = {name.lower() for name in taken}
    recent = list(taken)
    left, useless, most = entities, 0, ENTITIES_A_REPLY
    with ChatClient(endpoint) as client:
        while left > 0:
            prompt = PROMPT.format(
                count=(count := min(left, most)),
                topic=f" that have to do with {topic}" if topic else "",
                avoid=", ".join(recent[-_NAMES_TO_AVOID:]) or "none",
            )
            reply = client.ask([{"role": "user", "content": prompt}], temperature=1.0)
            found, trouble = _entities(reply.text)
            if reply.is_cut and not found:
                trouble = "the reply was cut at its length limit"
                most = max(1, count // 2)
            new = [entity for entity in found if entity[0].name.lower() not in names][:left]
            useless = 0 if new else useless + 1
            if useless == USELESS_REPLIES:
                trouble = trouble or "every entity was there already"
                other = f"a larger model, or another {argument('topic', '--topic', ('data synthesise',))}"
                raise DataServerError(
                    f"{endpoint.model} at {client.url} wrote no new entity in {useless} replies; the last one: "
                    f"{trouble}; use {'a server with a higher one' if reply.is_cut and not found else other}"
                )
            for entity in new:
                if entity[0].name.lower() not in names:  # a reply may name one twice
                    names.add(entity[0].name.lower())
                    recent.append(entity[0].name)
                    left -= 1
                    yield entity


def _entities(reply: str) -> tuple[list[list[Triple]], str]:
    """The usable entities of a reply, and what is wrong with it where there is none."""
    document = json_in(reply)
    records = document.get("entities") if isinstance(document, dict) else document
    if not isinstance(records, list):
        return [], f"no list of entities in {beginning(reply, 60)!r}"
    found = [entity for record in records if (entity := _triples(record))]
    return found, "" if found else f"no entity with a name and {FEWEST_FACTS} facts in {beginning(reply, 60)!r}"


def _triples(record: Any) -> list[Triple]:
    """The facts of one entity; none if too little of it can be used."""
    if not isinstance(record, dict) or not isinstance(record.get("facts"), dict):
        return []
    name = record.get("name")
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        return []
    triples: list[Triple] = []
    for prop, value in record["facts"].items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            value = str(value)
        if not isinstance(value, str) or len(value) > LONGEST_VALUE or len(prop) > LONGEST_PROPERTY:
            continue
        if any(same_meaning(prop, other.property) for other in triples):
            continue
        try:
            triples.append(Triple(name, prop, " ".join(value.split()).removesuffix(".")))
        except TripleFormatError:
            continue
    return triples if len(triples) >= FEWEST_FACTS else []
