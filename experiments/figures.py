"""The tables of answers in README and card, written from the reports in `results/`.

    python -m experiments.figures            # writes them anew
    python -m experiments.figures --check    # says which are not as the reports have them, and writes nothing

A table stands between `<!-- figures: NAME -->` and `<!-- end of figures -->`; nothing outside is touched. Which report
a row is of stands here alone. What else the pages say of a report (commit, machine) is prose.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "kblam/assets/smollm2/README.md")
_TABLE = re.compile(r"(<!-- figures: (\w+) -->\n\n).*?(\n<!-- end of figures -->)", re.DOTALL)

# Of each row: what it is called, its report, and where in it.
ANSWERS = (
    ("100 triples", "smollm2", "sizes", "100"),
    ("1,000", "smollm2", "sizes", "1000"),
    ("10,000", "smollm2", "sizes", "10000"),
    ("100,000", "smollm2-100k", "sizes", "100000"),
    ("1,000,000, 200 questions", "smollm2-1m", "sizes", "1000000"),
    ("1,000, phrasings never trained on", "smollm2-unseen", "unseen"),
    ("chemical elements, 2,335 triples", "smollm2-real", "real", "elements"),
    ("airports, 3,907 triples", "smollm2-airports-compounds", "real", "airports"),
    ("software weaknesses, 3,838 triples", "smollm2-weaknesses", "real", "weaknesses"),
    ("chemical compounds, 4,102 triples", "smollm2-airports-compounds", "real", "compounds"),
    ("WordNet, 4,503 triples", "smollm2-real", "real", "wordnet"),
)
# Beside RAG: of each size its report. Times are of a run of few questions, with nothing beside it.
BESIDE_RAG = {"100": "smollm2-rag", "1000": "smollm2-rag", "10000": "smollm2-rag-10000"}
TIMES_BESIDE_RAG = "smollm2-times"


def answers() -> list[list[str]]:
    """What `kblam eval` finds, a row for each knowledge base."""
    heading = ["knowledge base", "whole answer exact", "value", "top-1 evidence", "two facts, both right"]
    rows = [[*heading, "refusal precision", "recall", "of a property it lacks", "F1"]]
    for label, report, *way in ANSWERS:
        found = _at(report, *way)
        low, high = found["intervals"]["exact"][:2]
        names = ("value", "top1", "pair_right", "refusal_precision", "refusal_recall", "refusal_recall_property")
        exact = f"{share(found['exact'])} ({share(low, 2)} - {share(high, 2)})"
        rows.append([label, exact, *(share(found[name]) for name in (*names, "refusal_f1"))])
    return rows


def rag() -> list[list[str]]:
    """Beside RAG, on the same questions."""
    heading = ["triples", "value right: ours", "RAG", "F1 of refusals: ours", "RAG", "first token: ours", "RAG"]
    rows = [[*heading, "answer: ours", "RAG"]]
    for size, report in BESIDE_RAG.items():
        answered, timed = (
            [_at(name, "baselines", way, size) for way in ("kblam", "rag")] for name in (report, TIMES_BESIDE_RAG)
        )
        shares = [share(one[name]) for name in ("value", "refusal_f1") for one in answered]
        taken = [f"{one[name]:,.0f} ms" for name in ("first_token_ms", "answer_ms") for one in timed]
        rows.append([f"{int(size):,}", *shares, *taken])
    return rows


TABLES: Mapping[str, Callable[[], list[list[str]]]] = {"answers": answers, "rag": rag}


def share(value: float, digits: int = 3) -> str:
    """As the tables write it: no 0 before the point."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if value < 1 else text


def written(page: str) -> str:
    """A page with its tables as the reports have them.

    Raises:
        ValueError: it has a table that is not in `TABLES`.
    """

    def table(found: re.Match[str]) -> str:
        before, name, after = found.groups()
        if name not in TABLES:
            raise ValueError(f"a page has a table named {name!r}; there are {', '.join(TABLES)}")
        heading, *rows = (f"| {' | '.join(cells)} |\n" for cells in TABLES[name]())
        return before + heading + "|---" * (heading.count("|") - 1) + "|\n" + "".join(rows) + after

    return _TABLE.sub(table, page)


def _at(report: str, *way: str) -> Any:
    found = json.loads((ROOT / "experiments" / "results" / f"{report}.json").read_text(encoding="utf-8"))
    for step in way:
        found = found[step]
    return found


def main() -> None:
    """Writes the pages, or checks them."""
    parser = argparse.ArgumentParser(description="Tables of answers in README and card, from the reports.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not as it should be")
    given = parser.parse_args()
    stale = []
    for name in PAGES:
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        if (wanted := written(page)) != page:
            stale.append(name)
            if not given.check:
                path.write_text(wanted, encoding="utf-8")
    what = "not as the reports have them" if given.check else "written anew"
    Console(width=120).print(f"{what}: {', '.join(stale)}" if stale else "every table is as the reports have it")
    sys.exit(given.check and bool(stale))


if __name__ == "__main__":
    main()
