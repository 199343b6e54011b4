"""What pruning misses: `python -m benchmarks.pruning_recall`.

`prune` ranks triples by scores summed over heads and queries, as upstream does; attention mass is a sum of
exponentials. For held-out questions to the demo model, at its evidence layer: the mass of the k chosen triples over
the mass of the k best (`top_evidence`), and how often the one best triple is among the chosen. "prompt": all queries
of the question vote, as in prefill; "answer": each token alone, as in decode.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.options import at_least
from kblam.demo.tiny.assets import Demo, load
from kblam.demo.tiny.quiz import demo_quiz
from kblam.demo.tiny.tokenizer import real_words
from kblam.demo.tiny.world import build_world
from kblam.evaluation.loop import RememberingEncoder, triples_of
from kblam.generation.prompt import encode_question
from kblam.knowledge import Encoder, KnowledgeBase, load_encoder
from kblam.models.copies import resident_for
from kblam_kernels import prune, top_evidence

KEPT = (1, 4, 16, 64)
ANSWER_TOKENS = 12


@dataclass(frozen=True)
class Row:
    """One line of the table: means over questions, or over answer tokens."""

    triples: int
    phase: str
    k: int
    recall: float
    keeps_the_best: float
    share_of_attention: float


@dataclass
class Recorder:
    """Observer of the evidence layer: recall of every choice that pruning would have made there."""

    found: dict[tuple[str, int], list[tuple[float, bool, float]]] = field(default_factory=lambda: defaultdict(list))

    def __call__(
        self, *, query: Tensor, knowledge: Any, lse: Tensor, scale: float, bias: Any, knowledge_range: Any, **_: Any
    ) -> None:
        """Called with what one attention used; see `Attachment.observing`."""
        rows = query.shape[1] * query.shape[2]
        options = {"knowledge_bias": bias, "knowledge_range": knowledge_range}
        for k in KEPT:
            best, best_index = top_evidence(query, knowledge, lse, k, scale=scale, **options)
            mass, by_mass = top_evidence(query, knowledge, lse, knowledge.num_tokens, scale=scale, **options)
            chosen = prune(query, knowledge, k, **options)[2]
            of_chosen = torch.zeros_like(mass).scatter(1, by_mass, mass).gather(1, chosen).sum()
            phase = "prompt" if query.shape[2] > 1 else "answer"
            kept = bool((chosen == best_index[:, :1]).any())
            self.found[phase, k].append(((of_chosen / best.sum()).item(), kept, (of_chosen / rows).item()))

    def rows(self, triples: int) -> list[Row]:
        """Means of what was seen."""
        return [
            Row(triples, phase, k, *(statistics.fmean(column) for column in zip(*values, strict=True)))
            for (phase, k), values in sorted(self.found.items())
        ]


def measure(demo: Demo, encoder: Encoder, triples: int, questions: int) -> list[Row]:
    """The rows of one knowledge-base size."""
    # A quarter of a quiz has no answer.
    quiz = demo_quiz(build_world(real_words()).test_grid, triples, questions=questions + questions // 2 + 1)
    attachment, recorder = demo.attachment, Recorder()
    knowledge_base = KnowledgeBase.from_triples(triples_of(quiz), encoder)
    with attachment.using(resident_for(attachment, knowledge_base)), attachment.observing(recorder):
        for question in [q for q in quiz.questions if q.facts][:questions]:
            tokens = torch.tensor([encode_question(question.text, attachment, demo.tokenizer)])
            model: Any = demo.model
            model.generate(tokens, max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=0)
    return recorder.rows(triples)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning_recall", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--triples", type=at_least(1), nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--questions", type=at_least(1), default=32)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    demo, encoder = load(), RememberingEncoder(load_encoder("minilm"))
    rows = [row for triples in options.triples for row in measure(demo, encoder, triples, options.questions)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    print("| triples | queries | k | recall of mass | keeps the best | share of attention |\n|---|---|---|---|---|---|")
    for row in rows:
        figures = f"{row.recall:.3f} | {row.keeps_the_best:.3f} | {row.share_of_attention:.3f}"
        print(f"| {row.triples} | {row.phase} | {row.k} | {figures} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
