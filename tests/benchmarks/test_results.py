"""The result files that are committed: each says which machine and commit it is of; a page links none that is gone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FILES = sorted(RESULTS.rglob("*.json"))
NEEDED = ("device", "cpu", "threads", "commit", "torch", "python", "began")
ON_A_CPU, ON_A_GPU = ("instruction_set",), ("driver", "cuda", "triton")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RESULTS)))
def test_it_says_where_it_is_from(file: Path) -> None:
    stored = json.loads(file.read_text(encoding="utf-8"))
    about = stored.get("environment") if isinstance(stored, dict) else None
    assert about is not None, "a list of rows says nothing of its machine: measure it anew, or remove it"
    needed = NEEDED + (ON_A_GPU if about.get("cuda") else ON_A_CPU)
    missing = [name for name in needed if about.get(name) in (None, "", "unknown")]
    assert missing == []
    assert not about["commit"].endswith("-dirty"), "nobody can check out what was measured"


def test_every_file_that_a_page_links_is_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    linked = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#]*benchmarks/results[^)#]*)\)", page.read_text(encoding="utf-8"))
    ]
    assert [f"{page.name}: {target}" for page, target in linked if not (page.parent / target).exists()] == []
    assert linked, "figures have their rows"
