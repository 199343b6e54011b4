"""Asks the questions of invented.yaml, or near.yaml: `python -m experiments.invented [--file FILE] [--adapter DIR]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from experiments import told
from kblam import KnowledgeAdapter, KnowledgeBase, Session, Triple, attach
from kblam.errors import EvaluationError
from kblam.knowledge import load_encoder
from kblam.models.loading import load_base, load_tokenizer, quiet_libraries
from kblam.shipped import SMOLLM2_ADAPTER

FILE = Path(__file__).with_name("invented.yaml")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, default=SMOLLM2_ADAPTER)
    parser.add_argument("--file", type=Path, default=FILE, help="facts and questions")
    arguments = parser.parse_args()
    with told(parser):
        _ask(arguments)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    there = content if isinstance(content, dict) else {}
    if lacks := [name for name in ("facts", "questions", "missing", "pairs") if name not in there]:
        raise EvaluationError(f"{file} has no {', '.join(lacks)}; write it as {FILE} is")
    return there


def _ask(arguments: argparse.Namespace) -> None:
    content = _content(arguments.file)
    quiet_libraries()
    console = Console(highlight=False, soft_wrap=True)
    adapter = KnowledgeAdapter.from_pretrained(arguments.adapter)
    name = adapter.config.base_model or "smollm2"
    model, tokenizer = load_base(name), load_tokenizer(name)
    attach(model, adapter)
    knowledge_base = KnowledgeBase.from_triples([Triple(*fact) for fact in content["facts"]], load_encoder("minilm"))
    session = Session(model, knowledge_base, tokenizer=tokenizer)
    either = Session(model, knowledge_base, tokenizer=tokenizer, unknown="base")

    def put(asked: Session, questions: list[str], right: list[list[str] | None]) -> int:
        hits = 0
        for question, answer, values in zip(questions, asked.ask_many(questions), right, strict=True):
            good = answer.refused if values is None else all(value in answer.text for value in values)
            hits += good
            console.print(
                f"{'ok ' if good else 'NO '} {question}\n    {answer.text}  [{answer.knowledge_mass:.2f}]", markup=False
            )
        return hits

    questions, missing, pairs = content["questions"], content["missing"], content["pairs"]
    known = put(session, [one for one, _ in questions], [[value] for _, value in questions])
    refused = put(session, missing, [None] * len(missing))
    both = put(session, [one for one, _ in pairs], [values for _, values in pairs])
    general = content.get("general", [])
    for question, answer in zip(general, either.ask_many(general), strict=True):
        source = "base model" if answer.from_base else "KNOWLEDGE"
        console.print(f"{source}: {question}\n    {answer.text}", markup=False)
    console.print(
        f"{known} of {len(questions)} right, {refused} of {len(missing)} refused, {both} of {len(pairs)} pairs right"
    )


if __name__ == "__main__":
    main()
