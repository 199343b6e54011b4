"""What it costs to hold query heads in fewer bytes: `python -m benchmarks.query_accuracy [--json FILE]`.

SmolLM2 with the shipped adapter answers questions about entities that training never saw, with its full query heads,
with int8 ones, and with the best approximation of a low rank; rank 0 is none at all. No timing.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from benchmarks.options import at_least, check, document
from kblam.adapter import KnowledgeAdapter
from kblam.bench.output import write_json
from kblam.data.quiz import Question, Quiz
from kblam.demo.tiny import assets
from kblam.demo.tiny.quiz import demo_quiz
from kblam.demo.tiny.tokenizer import real_words
from kblam.demo.tiny.world import build_world
from kblam.evaluation.figures import Outcome, score
from kblam.evaluation.loop import LIMIT, RememberingEncoder, triples_of
from kblam.evaluation.material import standard_material
from kblam.evaluation.plan import Plan, rows_of
from kblam.generation import Answer, Session
from kblam.knowledge import KnowledgeBase, load_encoder
from kblam.models import attach
from kblam.models.loading import load_base, load_tokenizer, quiet_libraries
from kblam.models.query_heads import INT8, PRODUCT
from kblam.shipped import SMOLLM2_ADAPTER

FULL = "full"


@torch.no_grad()
def low_rank(adapter: KnowledgeAdapter, rank: int) -> KnowledgeAdapter:
    """A copy whose query heads are the nearest matrices of this rank, as two factors would hold them."""
    twin = copy.deepcopy(adapter)
    for head in twin.query_heads.values():
        weight = cast(nn.Linear, head).weight
        left, size, right = torch.linalg.svd(weight.double(), full_matrices=False)
        weight.copy_((left[:, :rank] * size[:rank]) @ right[:rank])
    return twin


def head_bytes(adapter: KnowledgeAdapter, way: str, element: int) -> int:
    """Bytes of one layer's query head, held as `way` says."""
    outputs, inputs = adapter.config.num_heads * adapter.config.head_dim, adapter.config.hidden_size
    if way == INT8:
        return outputs * (inputs + PRODUCT.itemsize)
    if way == FULL:
        return outputs * inputs * element
    return int(way.removeprefix("rank ")) * (outputs + inputs) * element


@dataclass(frozen=True)
class Asked:
    """A model with its adapter, and the quizzes of each number of triples."""

    model: Any
    tokenizer: Any
    adapter: KnowledgeAdapter
    quizzes: Mapping[int, Sequence[Quiz]]


def smollm2(sizes: Sequence[int], questions: int, seed: int) -> Asked:
    """SmolLM2 with the shipped adapter, asked about entities that training never saw."""
    adapter = KnowledgeAdapter.from_pretrained(SMOLLM2_ADAPTER)
    name = str(adapter.config.base_model)
    plan = Plan(sizes=tuple(sizes), questions=questions, seed=seed)
    quizzes = {row.triples: row.quizzes() for row in rows_of(plan, standard_material(adapter.config.answer))}
    model = load_base(name, device="cpu")
    return Asked(model, load_tokenizer(name), adapter, quizzes)


def tiny(sizes: Sequence[int], questions: int) -> Asked:
    """The tests' model: its adapter has no question head, so its query heads alone find a triple."""
    world, demo = build_world(real_words()).test_grid, assets.load()
    quizzes = {size: [demo_quiz(world, size, questions=questions)] for size in sizes}
    return Asked(demo.model, demo.tokenizer, demo.attachment.adapter, quizzes)


def rows(asked: Asked, ranks: Sequence[int]) -> Iterator[dict[str, object]]:
    """A row for each number of triples and way, compared with the full heads."""
    encoder = RememberingEncoder(load_encoder("minilm"))
    adapters = {FULL: asked.adapter, INT8: asked.adapter}
    adapters |= {f"rank {rank}": low_rank(asked.adapter, rank) for rank in ranks}
    for triples, quizzes in asked.quizzes.items():
        found: dict[str, list[Answer]] = {way: [] for way in adapters}
        for quiz in quizzes:
            with KnowledgeBase.from_triples(triples_of(quiz), encoder) as knowledge_base:
                for way, adapter in adapters.items():
                    attach(asked.model, adapter, query_storage=INT8 if way == INT8 else "auto")
                    session = Session(asked.model, knowledge_base, tokenizer=asked.tokenizer)
                    found[way] += session.ask_many([one.text for one in quiz.questions], max_new_tokens=LIMIT)
        for way in adapters:
            yield {
                "triples": triples,
                "query heads": way,
                "bytes of a head": head_bytes(asked.adapter, way, asked.model.dtype.itemsize),
                **compared([one for quiz in quizzes for one in quiz.questions], found[way], found[FULL]),
            }


def compared(questions: Sequence[Question], answers: Sequence[Answer], full: Sequence[Answer]) -> dict[str, object]:
    """Shares of right answers, and what changed from the full heads'; `confidence` is the mean change of it."""
    figures = score(questions, [outcome(answer) for answer in answers])
    pairs = list(zip(answers, full, strict=True))
    return {
        "questions": len(questions),
        "exact": figures.exact,
        "top1": figures.top1,
        "refusal_f1": figures.refusal_f1,
        "confidence": sum(abs((a.confidence or 0.0) - (b.confidence or 0.0)) for a, b in pairs) / len(pairs),
        "answers_changed": sum(a.text != b.text for a, b in pairs),
        "evidence_changed": sum(outcome(a).best != outcome(b).best for a, b in pairs),
    }


def outcome(answer: Answer) -> Outcome:
    """What is scored of an answer."""
    evidence = tuple((one.triple.name, one.triple.property, one.triple.value) for one in answer.evidence)
    return Outcome(answer.text, evidence, answer.refused, answer.known)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.query_accuracy", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--sizes", type=at_least(1), nargs="+", default=[1000, 10_000], help="triples of the knowledge bases"
    )
    parser.add_argument("--ranks", type=at_least(0), nargs="*", default=[0, 32, 72, 144])
    parser.add_argument("--tiny", action="store_true", help="ask the model of the tests, not SmolLM2")
    parser.add_argument("--questions", type=at_least(1), default=300, help="for each size")
    parser.add_argument("--seed", type=int, default=5, help="of the questions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    check(parser, options.json)
    quiet_libraries()
    chosen = (options.sizes, options.questions)
    asked = tiny(*chosen) if options.tiny else smollm2(*chosen, options.seed)
    done: list[dict[str, object]] = []
    for row in rows(asked, options.ranks):
        if not done:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row), flush=True)
        done.append(row)
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        print("| " + " | ".join(cells) + " |", flush=True)
        if options.json:
            write_json(document(options, asked.model.dtype, rows=done), options.json)


if __name__ == "__main__":
    main()
