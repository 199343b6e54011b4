"""The model card of the shipped demo model, written from the figures of its evaluation."""

from __future__ import annotations

from pathlib import Path

from kblam.demo.tiny.words import PROPERTIES
from kblam.evaluation.figures import Figures

_CARD = """---
license: mit
library_name: transformers
tags: [kblam, knowledge-base]
---
# Demo model of kblam

A Llama of four layers ({parameters:.1f} M parameters, two thirds of them token embeddings) in `model/`, and its
knowledge adapter in `adapter/`, both bfloat16. It answers questions about the facts of an invented world from
knowledge tokens alone, and knows nothing else: it shows what the mechanism does, on any CPU, in a fraction of a
second.

    from kblam.demo.tiny.assets import load
    demo = load()

## What it can say

It asks its knowledge base for one of twelve properties ({properties}) of an entity with **any** name. Values are
made of {words} words (`python -m kblam.demo.tiny --words` lists them). Everything is in lower case. A question without
an answer in the knowledge base gets "i am sorry i cannot find relevant information in the kb."

## How it was made

`python -m kblam.demo.tiny.train`: from scratch, seed {seed}, {steps} steps on one CPU thread, facts from
`kblam.demo.tiny.world`, sentence embeddings from all-MiniLM-L6-v2. Its tokenizer is MiniLM's WordPiece vocabulary cut
down to Latin pieces, and its token embeddings are a learned projection of MiniLM's word embeddings (Apache-2.0).
`docs/demo.md` explains the recipe.

## Measured

{questions} questions a row, greedy, written by `python -m kblam.demo.tiny.evaluate`. Entities and values never occur in
training; names of "unseen words" share no real word with its names, while their invented words and numbers are drawn in
the same way. A quarter of the questions has no answer; a tenth asks for two facts (not with unseen phrasings).

| knowledge base | exact answer | top-1 evidence | refusal precision | refusal recall | refusal F1 |
|---|---|---|---|---|---|
{rows}

Exact: the whole answer to the letter. Top-1: the strongest evidence is a fact that was asked for. Layer 2 alone sees
knowledge. `load()` keeps a knowledge base as int8 latents that are multiplied as int8 where the processor can, and
so it was measured; `load(exact=True)` does not.
"""


def table_row(name: str, figures: Figures) -> str:
    """One line of the card's table."""
    values = (
        figures.exact,
        figures.top1,
        figures.refusal_precision,
        figures.refusal_recall,
        figures.refusal_f1,
    )
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def write_card(folder: Path, rows: dict[str, Figures], *, seed: int, steps: int, parameters: int, words: int) -> None:
    """Writes `folder/README.md`."""
    text = _CARD.format(
        seed=seed,
        steps=steps,
        parameters=parameters / 1e6,
        words=words,
        properties=", ".join(PROPERTIES),
        questions=next(iter(rows.values())).questions,
        rows="\n".join(table_row(name, figures) for name, figures in rows.items()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
