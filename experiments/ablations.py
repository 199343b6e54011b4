"""What each part is worth: the same small budget with one part left out: `python -m experiments.ablations FOLDER`.

Trains, then asks as `kblam eval` does: 1,000 triples of the synthetic world that training never sees, and a real base.
Rows that FOLDER holds already are not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from kblam import KnowledgeAdapter

# A quarter of the shipped adapter's world and steps: minutes each, and the differences are large.
BUDGET: dict[str, Any] = {
    "train_entities": 3500,
    "retrieval_questions": 60_000,
    "retrieval_steps": 1200,
    "max_steps": 200,
}
WITHOUT: dict[str, dict[str, Any]] = {
    "everything": {},
    "no stage 1": {"retrieval_steps": 0},
    "no language-model stage": {"max_steps": 0},
    "KBLaM's plain query": {"question_head": "null", "retrieval_steps": 0},
}
NO_POINTER = "no pointer"  # the first one's weights
FIGURES = ("exact", "value", "top1", "refusal_f1", "refusal_recall_property")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("smollm2.yaml"))
    parser.add_argument("--real", default="elements")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--questions", type=int, default=200)
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    for name in (*WITHOUT, NO_POINTER):
        adapter = given.folder / name.replace(" ", "-").replace("'", "")
        if name == NO_POINTER:
            _without_pointer(given.folder / "everything", adapter)
        elif not (adapter / "config.json").is_file():
            settings = BUDGET | WITHOUT[name]
            flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
            cache = given.folder / "vectors"
            _kblam("train", "--config", given.config, "--cache", cache, "--output", adapter, *flags)
        report = adapter.with_suffix(".json")
        if not report.is_file():
            asked = ("--sizes", 1000, "--real", given.real, "--seed", given.seed, "--questions", given.questions)
            _kblam("eval", "--adapter", adapter, *asked, "--json", report)
        content = json.loads(report.read_text(encoding="utf-8"))
        for row, figures in (("1,000 triples", content["sizes"]["1000"]), (given.real, content["real"][given.real])):
            shown = "  ".join(f"{figure} {figures.get(figure, float('nan')):.3f}" for figure in FIGURES)
            by_layer = figures["top1_by_layer"]
            attention = max(by_layer.values())
            console.print(f"{name:25} {row:14} {shown}  top-1 of attention alone {attention:.3f}", markup=False)


def _kblam(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "kblam", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def _without_pointer(source: Path, target: Path) -> None:
    adapter = KnowledgeAdapter.from_pretrained(source)
    adapter.config = replace(adapter.config, pointer=False)
    adapter.save_pretrained(target)


if __name__ == "__main__":
    main()
