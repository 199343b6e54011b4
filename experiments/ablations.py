"""What each part is worth: the same small budget with one part left out: `python -m experiments.ablations FOLDER`.

Trains, then asks as `kblam eval` does: 1,000 triples of the synthetic world that training never sees, and a real base.
Rows that FOLDER holds already are not made again; those of another config, seed, commit or other questions are refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import told
from kblam.errors import EvaluationError
from kblam.evaluation.machine import commit
from kblam.evaluation.report import Report
from kblam.whole import write_whole

# "whole" is the config's own; "quarter" of the shipped adapter's world and steps is minutes each.
BUDGETS: dict[str, dict[str, Any]] = {
    "whole": {},
    "quarter": {
        "train_entities": 3500,
        "retrieval_questions": 60_000,
        "retrieval_steps": 1200,
        "max_steps": 200,
    },
}
WITHOUT: dict[str, dict[str, Any]] = {
    "everything": {},
    "no stage 1": {"retrieval_steps": 0},
    "no language-model stage": {"max_steps": 0},
    "KBLaM's plain query": {"question_head": "null", "retrieval_steps": 0},
    "no pointer": {"pointer": "false"},
}
FIGURES = ("exact", "value", "top1", "refusal_f1", "refusal_recall_property")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("smollm2.yaml"))
    parser.add_argument("--budget", choices=BUDGETS, default="quarter")
    parser.add_argument("--only", choices=WITHOUT, action="append", help="these rows; default: all")
    parser.add_argument("--real", default="elements")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--questions", type=int, default=200)
    given = parser.parse_args()
    try:
        with told(parser):
            _rows(given)
    except subprocess.CalledProcessError as error:
        parser.exit(error.returncode)  # it said why


def _rows(given: argparse.Namespace) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name in given.only or WITHOUT:
        adapter = given.folder / name.replace(" ", "-").replace("'", "")
        _train(adapter, BUDGETS[given.budget] | WITHOUT[name], given)
        rows = _asked(adapter, given)
        for row, figures in (("1,000 triples", rows["sizes"]["1000"]), (given.real, rows["real"][given.real])):
            shown = "  ".join(f"{figure} {figures.get(figure, float('nan')):.3f}" for figure in FIGURES)
            by_layer = figures["top1_by_layer"]
            attention = max(by_layer.values())
            console.print(f"{name:25} {row:14} {shown}  top-1 of attention alone {attention:.3f}", markup=False)


def _train(adapter: Path, settings: dict[str, Any], given: argparse.Namespace) -> None:
    """Trains it, unless it is there; an adapter does not say by which config, so a file beside it does."""
    recipe = adapter.with_suffix(".recipe")
    wanted = json.dumps({"config": given.config.read_text(encoding="utf-8"), "settings": settings}, indent=1)
    if (adapter / "config.json").is_file():
        if not recipe.is_file() or recipe.read_text(encoding="utf-8") != wanted:
            raise EvaluationError(
                f"nothing says that {adapter} was trained by {given.config} as it is now; "
                f"choose another folder, or delete {adapter} and its report"
            )
        return
    write_whole(recipe, wanted)
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    cache = given.folder / "vectors"
    # One that was stopped half way goes on; if it had other settings, that is told.
    _kblam("train", "--config", given.config, "--cache", cache, "--output", adapter, "--resume", *flags)


def _asked(adapter: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The rows of its report, which is made if it is not there."""
    file = adapter.with_suffix(".json")
    if not file.is_file():
        # It is written after every row: by its own name it would pass for a whole one after Ctrl-C.
        unfinished = adapter.with_suffix(".part.json")
        asked = ("--sizes", 1000, "--real", given.real, "--seed", given.seed, "--questions", given.questions)
        _kblam("eval", "--adapter", adapter, *asked, "--json", unfinished)
        unfinished.replace(file)
    report = Report.read(file)
    for name, now in (("seed", given.seed), ("questions", given.questions), ("commit", commit())):
        if (before := report.about.get(name)) != now:
            raise EvaluationError(
                f"{file} has {name} {before!r}, and this run {now!r}; choose another folder, or delete it"
            )
    for section, key, what in (("sizes", "1000", "1,000 triples"), ("real", given.real, given.real)):
        if key not in report.rows.get(section, {}):
            raise EvaluationError(f"{file} has no row of {what}; choose another folder, or delete it")
    return report.rows


def _kblam(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "kblam", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
