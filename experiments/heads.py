"""How well property heads find what questions ask for: natural ones among the properties of twenty tables, and those of
the training world among near properties, such as latitude and longitude.

    python -m experiments.heads                 # the head of the shipped adapter
    python -m experiments.heads --adapter DIR   # another one's
    python -m experiments.heads --learn         # heads learned here too; takes minutes

`questions/tables.txt` has tables as firms keep them, twelve properties each. Its authors saw no question of ours, and
those of `kblam/data/phrases/further.txt` not these; what both happened to write is not counted. Right are so many of
all of them, of those for properties of the training world, for further properties, and for others. Of near ones: the
training world's own questions in which the right property is ahead of those near it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments import told
from kblam import KnowledgeAdapter
from kblam.adapter.property_head import PRONOUN, PropertyHead
from kblam.data.meaning import near_properties
from kblam.data.phrases import blocks, further, phrases, specific
from kblam.data.properties import TYPED
from kblam.data.tables import lines
from kblam.errors import AdapterError
from kblam.knowledge import load_encoder
from kblam.knowledge.encoders import layered, usual_layers
from kblam.knowledge.identifiers import key
from kblam.knowledge.triples import key_text
from kblam.models.loading import quiet_libraries
from kblam.shipped import SMOLLM2_ADAPTER
from kblam.training.properties import PropertyQuestions, bare, learn_head
from kblam.training.vectors import Vectors

_OF_WORLD = 20_000  # questions for the training world's properties
QUESTIONS_OF = Path(__file__).with_name("questions")

Asked = Mapping[str, Sequence[str]]  # by property, the questions that ask for it


def _asked(text: str) -> dict[str, list[str]]:
    """The questions under each heading "## property", with the pronoun in place of {n}."""
    return {prop: [line.replace("{n}", PRONOUN) for line in lines(under)] for prop, under in blocks(text)}


def tables() -> dict[str, dict[str, list[str]]]:
    """By name, the properties of each table."""
    parts = f"\n{(QUESTIONS_OF / 'tables.txt').read_text(encoding='utf-8')}".split("\n# ")[1:]
    return {part.partition("\n")[0]: _asked(part.partition("\n")[2]) for part in parts}


def unlearned(found: Mapping[str, Asked]) -> dict[str, dict[str, list[str]]]:
    """The tables without the questions that training has word for word."""
    phrasings = [template for asked in further().values() for template in asked]
    phrasings += [template for asked in specific().values() for template in asked.seen]
    phrasings += [template.replace("{p}", prop) for prop in TYPED for template in phrases("one").seen]
    learned = {bare(template.replace("{n}", PRONOUN)) for template in phrasings}
    return {
        name: {prop: [text for text in asked if bare(text) not in learned] for prop, asked in of_table.items()}
        for name, of_table in found.items()
    }


@torch.no_grad()
def hits(head: PropertyHead, vectors: Vectors, found: Mapping[str, Asked]) -> Iterator[tuple[str, bool, float]]:
    """Of each question the property it asks for, whether the head finds it, and the log of its share."""
    for of_table in found.values():
        properties = list(of_table)
        keys = head.keys(_sentences(head, vectors, (key_text(PRONOUN, prop) for prop in properties)))
        for place, (prop, questions) in enumerate(of_table.items()):
            shares = head.log_shares(_encodings(vectors, questions), keys)
            yield from ((prop, int(row.argmax()) == place, float(row[place])) for row in shares)


@torch.no_grad()
def ahead_of_near(head: PropertyHead, vectors: Vectors, drawn: PropertyQuestions) -> tuple[int, int]:
    """Of the questions for a property that has near ones, in how many it is ahead of all of these; and how many."""
    places = {prop: at for at, prop in enumerate(drawn.properties)}
    scores = head(_encodings(vectors, drawn.texts), head.keys(_sentences(head, vectors, drawn.key_texts)))
    meant = torch.tensor(drawn.meant)
    right = asked = 0
    for prop, place in places.items():
        of_it = scores[meant == place]
        if near := [places[other] for other in near_properties(prop) if other in places]:
            right += int((of_it[:, place] > of_it[:, near].amax(-1)).sum())
            asked += len(of_it)
    return right, asked


def _encodings(vectors: Vectors, texts: Iterable[str]) -> Tensor:
    """As the encoder gives them."""
    return vectors.of(texts) / vectors.scale


def _sentences(head: PropertyHead, vectors: Vectors, texts: Iterable[str]) -> Tensor:
    """Without the layers before them."""
    return _encodings(vectors, texts)[:, -head.property.in_features :]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, default=SMOLLM2_ADAPTER)
    parser.add_argument("--learn", action="store_true", help="learn heads too")
    parser.add_argument("--cache", type=Path, default=Path("build/heads"), help="of sentence vectors")
    arguments = parser.parse_args()
    with told(parser):
        _compare(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    quiet_libraries()
    console = Console(highlight=False)
    adapter = KnowledgeAdapter.from_pretrained(arguments.adapter)
    if (given := adapter.property_head) is None:
        raise AdapterError(f"{arguments.adapter} has no property head; kblam calibrate learns one")
    found, more = unlearned(tables()), {key(prop) for prop in further()}
    texts = [text for of_table in found.values() for prop, questions in of_table.items() for text in questions]
    texts += [key_text(PRONOUN, prop) for of_table in found.values() for prop in of_table]
    learned = {}
    if arguments.learn:
        learned["learned as kblam train does"] = PropertyQuestions.draw()
        learned["without further questions"] = PropertyQuestions.draw(further_share=0)
    world = PropertyQuestions.draw(count=_OF_WORLD, further_share=0, seed=1)
    for drawn in (world, *learned.values()):
        texts += [*drawn.texts, *drawn.key_texts]
    encoder = load_encoder("minilm")

    @cache
    def vectors_with(layers: tuple[int, ...]) -> Vectors:
        return Vectors(texts, layered(encoder, layers), arguments.cache)

    read = usual_layers(encoder)
    heads = {"given": (given, vectors_with(adapter.config.property_layers))}
    for name, drawn in learned.items():
        heads[name] = learn_head(drawn, vectors_with(read), layers=len(read)), vectors_with(read)
    shown = Table("head", "right", "training's", "further", "others", "log loss", "near ones")
    for name, (head, vectors) in heads.items():
        rows = list(hits(head, vectors, found))
        groups = [rows, [row for row in rows if row[0] in TYPED]]
        rest = [row for row in rows if row[0] not in TYPED]
        groups += [[row for row in rest if (key(row[0]) in more) == known] for known in (True, False)]
        shares = [f"{sum(row[1] for row in group) / len(group):.3f} of {len(group)}" for group in groups]
        right, asked = ahead_of_near(head, vectors, world)
        loss = -sum(row[2] for row in rows) / len(rows)
        shown.add_row(name, *shares, f"{loss:.3f}", f"{right / asked:.4f} of {asked}")
    console.print(shown)


if __name__ == "__main__":
    main()
