"""Tables of answers: README and card say what the reports say, and nothing else on the page is touched."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments import figures

PAGE = """| triples | SDPA |
|---|---|
| 1,000 | 3.35 |

<!-- figures: answers -->

| knowledge base | exact |
|---|---|
| 1,000 | .5 |

<!-- end of figures -->

| 1,000 | after |
"""


@pytest.mark.parametrize("name", figures.PAGES)
def test_a_page_says_what_the_reports_say(name: str) -> None:
    page = (figures.ROOT / name).read_text()
    assert figures.written(page) == page, "python -m experiments.figures"
    assert [page.count(f"<!-- figures: {table} -->") for table in figures.TABLES] == [1] * len(figures.TABLES)
    beside = {*figures.BESIDE_RAG.values(), figures.TIMES_BESIDE_RAG}
    for report in {report for _, report, *_ in figures.ANSWERS} | beside:
        commit = json.loads((figures.ROOT / "experiments" / "results" / f"{report}.json").read_text())["commit"]
        assert commit[:7] in page, f"of which commit {report} is"


def test_rows_of_other_tables_are_left_alone() -> None:
    """A script of before took the first row of that name on the page, in the table of speed."""
    written = figures.written(PAGE)
    before, after = PAGE.split("| knowledge base | exact |\n|---|---|\n| 1,000 | .5 |\n")
    assert written.startswith(before)
    assert written.endswith(after)
    rows = written.removeprefix(before).removesuffix(after).splitlines()
    assert len(rows) == 2 + len(figures.ANSWERS)
    assert {row.count("|") for row in rows} == {10}
    assert figures.written(written) == written


def test_a_table_of_no_report_is_refused() -> None:
    with pytest.raises(ValueError, match="'speed'; there are answers, rag"):
        figures.written(PAGE.replace("figures: answers", "figures: speed"))


@pytest.mark.parametrize(("value", "text"), [(0.98765, ".988"), (1.0, "1.000"), (0.99996, "1.000"), (0.0, ".000")])
def test_a_share(value: float, text: str) -> None:
    assert figures.share(value) == text


def test_check_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "TABLES", {"answers": lambda: [["knowledge base"], ["2,000"]]})
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "PAGES", ("page.md",))
    (tmp_path / "page.md").write_text(PAGE)

    def main(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["figures", *options])
        with pytest.raises(SystemExit) as ended:
            figures.main()
        return int(ended.value.code or 0)

    assert main("--check") == 1
    assert "not as the reports have them: page.md" in capsys.readouterr().out
    assert (tmp_path / "page.md").read_text() == PAGE
    assert main() == 0
    assert "| 2,000 |" in (tmp_path / "page.md").read_text()
    assert main("--check") == 0
    assert "every table is as the reports have it" in capsys.readouterr().out
