"""Lists that fit the screen, and what `list` and `info` say of a knowledge base."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.table import Table

from kblam import Evidence, KnowledgeBase, Triple
from kblam.cli.ask import print_evidence
from kblam.cli.output import size_of
from kblam.cli.tables import Rows, fair_widths, print_table
from kblam.generation import Answer
from kblam.generation.drawing import INDENT
from kblam.test import OFF, OK, Outcome
from tests.cli.conftest import ENCODER, command_line, kblam
from tests.fakes import HashingEncoder

LONG = [
    Triple("Amber \x1b[2J Falcon", "color\x07", "green \u202e stars"),
    Triple("東京タワー", "高さ", "三百三十三メートル " * 20),
    Triple("Oak", "kind", "first line\nsecond\tline " + "x" * 300 + " 👩‍👩‍👧"),
]


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A knowledge base of long values, wide characters and escape sequences."""
    path = tmp_path / "long.kb"
    with KnowledgeBase.create(path, ENCODER) as kb:
        kb.add(LONG)
    return path


@pytest.mark.parametrize("columns", [20, 40, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_list_fits_the_screen(long: Path, columns: int, encoding: str) -> None:
    done = subprocess.run(
        [*command_line(), "kb", "list", str(long)],
        capture_output=True,
        timeout=300,
        check=True,
        env={**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": encoding, "NO_COLOR": "1"},
    )
    rows = done.stdout.decode(encoding).splitlines()[:4]
    assert all(cell_len(row) <= columns for row in rows), rows
    assert rows[0].startswith("name")
    assert rows[3].endswith("…" if encoding == "utf-8" else "...")
    assert not set(done.stdout) & set(b"\x1b\x07")


def test_a_list_in_a_file_is_whole(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    shown = kblam("kb", "list", long).ok().stdout
    assert "first line second line " + "x" * 300 in shown
    assert "--json" not in shown
    monkeypatch.setenv("COLUMNS", "80")
    assert "3 shown, 3 triples in all; --json shows texts whole" in kblam("kb", "list", long).ok().stdout
    assert "2 shown, 3 triples in all; --limit 0 shows all" in kblam("kb", "list", long, "-l", 2).ok().stdout


@pytest.mark.parametrize(
    ("natural", "room", "widths"),
    [
        ([5, 5, 5], 80, [5, 5, 5]),
        ([10, 8, 5000], 76, [10, 8, 58]),
        ([500, 8, 5000], 76, [34, 8, 34]),
        ([9, 9, 9], 1, [1, 1, 1]),
    ],
)
def test_narrow_columns_get_what_they_need(natural: list[int], room: int, widths: list[int]) -> None:
    assert fair_widths(natural, room) == widths


def test_rows_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert [line.plain for line in Rows(("a", "b"), []).lines()] == ["a  b"]


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colours_in_a_pipe_give_it_no_width(long: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """CI sets these; what it keeps is whole."""
    monkeypatch.setenv(name, "1")
    assert "first line second line " + "x" * 300 in kblam("kb", "list", long).ok().stdout


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A knowledge base whose name and properties are longer than a screen."""
    (tmp_path / "a folder").mkdir()
    path = tmp_path / "a folder" / f"{'many words ' * 15}.kb"
    with KnowledgeBase.create(path, ENCODER) as kb:
        kb.add([Triple("Oak", f"{number} {'long property ' * 4}", "ships") for number in range(4)])
    return path


@pytest.mark.parametrize("columns", [None, "0"])
def test_a_row_of_a_table_in_a_pipe_is_a_line(wide: Path, monkeypatch: pytest.MonkeyPatch, columns: str | None) -> None:
    if columns is not None:  # of a terminal that does not know
        monkeypatch.setenv("COLUMNS", columns)
    lines = kblam("kb", "info", wide).ok().stdout.splitlines()
    assert f" file         {wide}" in lines
    assert lines[2].startswith(" properties   4: 0 long property")
    assert lines[2].endswith("long property")
    assert not [line for line in lines if line != line.rstrip()]
    outcomes = [Outcome("python", OK, "fine"), Outcome("model", OFF, "words " * 50 + "end", "get it " * 30 + "soon")]
    monkeypatch.setattr("kblam.cli.checks.all_checks", lambda: outcomes)
    lines = kblam("doctor").ok().stdout.splitlines()
    assert [line[-4:] for line in lines[:3]] == ["fine", " end", "soon"]


def test_a_table_fits_the_screen(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = kblam("kb", "info", wide).ok().stdout.splitlines()
    assert max(map(len, lines[:10])) <= 60
    assert str(wide).replace(" ", "") in "".join("".join(lines).split()), "a long path is folded, not cut"


def test_what_is_narrow_on_a_screen_is_whole_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> list[str]:
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        table.add_column("name", width=8)
        table.add_column("ms", justify="right", width=4)
        table.add_row("one two three", "1.0")
        print_table(table, "a title that is longer")
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    assert shown() == ["a title that is longer", "name             ms", "one two three   1.0"]
    monkeypatch.setenv("COLUMNS", "18")
    assert shown() == ["a title that is", "  longer", "name        ms", "one two    1.0", "three"]


@pytest.mark.parametrize("columns", [30, 60, 100])
def test_evidence_fits_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    triples = [
        Triple("N" * 150, "p " * 20, "first\nsecond " * 30),
        Triple("東京タワー" * 10, "高さ", "三百 メートル" * 20),
    ]
    answer = Answer("text", tuple(Evidence(triple, 0.5) for triple in triples), False, 4)

    def shown() -> list[str]:
        print_evidence(answer, copies=True)
        return capsys.readouterr().out.splitlines()

    whole = shown()
    assert len(whole) == 3
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown()
    assert max(map(cell_len, lines[1:])) <= columns
    assert "".join("".join(lines[1:]).split()) == "".join("".join(whole[1:]).split())
    bars = [line for line in lines if "█" in line]
    assert len(bars) == 2
    indent = INDENT if columns > 30 else 2
    assert all(line.startswith(" " * indent + line[indent]) for line in lines[1:] if line not in bars)


# --- searching -------------------------------------------------------------------------------------------


def test_search_looks_into_properties_and_values_after_names() -> None:
    triples = [
        Triple("Oak", "Use", "Ships of the Line"),
        Triple("Elm", "kind", "tree"),
        Triple("Ship", "kind", "vessel"),
        Triple("Ｅｌｍ Row", "ship", "ＦＵＬＬ width"),
    ]
    kb = KnowledgeBase.from_triples(triples, HashingEncoder())

    def found(text: str, **options: object) -> list[str]:
        return [triple.name for triple in kb.search(text, everywhere=True, **options)]  # type: ignore[arg-type]

    assert found("SHIP") == ["Ship", "Oak", "Ｅｌｍ Row"]
    assert [triple.name for triple in kb.search("ship")] == ["Ship"]
    assert found("line oak") == ["Oak"]
    assert found("kind") == ["Elm", "Ship"]
    assert found("full elm") == ["Ｅｌｍ Row"]
    assert found("oakuse") == [], "no word goes from one text into the next"
    assert found("ship", limit=1) == ["Ship"]
    assert found("%") == found(" ") == []
    assert kb.distinct() == (4, 3)


def test_list_searches_everywhere(kb: Path) -> None:
    assert "1 found by 'zirconia', 3 triples in all" in kblam("kb", "list", kb, "-s", "zirconia").ok().stdout
    assert "the first 1 found by 'a'" in kblam("kb", "list", kb, "-s", "a", "-l", 1).ok().stdout


# --- info ------------------------------------------------------------------------------------------------


def test_info_speaks_in_units(long: Path) -> None:
    os.utime(long, (1_700_000_000, 1_700_000_000))
    facts = kblam("kb", "info", long, "--json").ok().json
    assert (facts["triples"], facts["names"], facts["properties"]) == (3, 3, 3)
    assert datetime.fromisoformat(facts["changed"]).timestamp() == 1_700_000_000
    shown = kblam("kb", "info", long).ok().stdout
    assert "3, about 3 names" in shown
    assert "3: color\\x07, kind, 高さ" in shown
    assert f"{datetime.fromtimestamp(1_700_000_000):%Y-%m-%d %H:%M} (revision 1)" in shown
    assert f"{size_of(facts['bytes'])}" in shown


def test_a_plan_fits_the_screen_and_is_whole_in_a_file(
    long: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan() -> list[str]:
        shown = kblam("kb", "info", long, "--model", model_folder).ok().stdout
        shown = re.sub(r"\S+ GB free", "1 GB free", shown[shown.index("plan for ") :])
        return shown.splitlines()

    monkeypatch.delenv("COLUMNS", raising=False)
    whole = plan()
    monkeypatch.setattr("kblam.cli.tables.screen_width", lambda console: 60)
    on_screen = plan()
    assert max(map(len, on_screen)) <= 60 < max(map(len, whole))
    assert " ".join(" ".join(on_screen).split()) == " ".join(" ".join(whole).split())
    assert on_screen[1].startswith("  ")


def test_info_says_how_a_model_reads_it(long: Path, model_folder: Path) -> None:
    """What the planner chose, for the model that is named; the default one has another encoder, which is no error."""
    plan = kblam("kb", "info", long, "--model", model_folder, "--plan", "latent", "--json").ok().json["plan"]
    assert (plan["decode"], plan["prefill"]) == ("latent", "latent")
    assert plan["held_bytes"] > 0
    assert plan["reasons"][0] == "decode, 1 new token: latent (pinned)"
    shown = kblam("kb", "info", long, "--model", model_folder, "--plan", "dense").ok().stdout
    assert f"how {model_folder} reads it:" in shown
    assert "dense for every forward pass; holds " in shown
    refused = kblam("kb", "info", long, "--json").ok().json["plan"]["refused"]
    assert "the adapter was trained with encoder" in refused
    kblam("kb", "info", long, "--model", model_folder, "--plan", "fast").failed(2, "pin='fast' is not understood")


def test_info_of_an_empty_knowledge_base(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "empty.kb", ENCODER):
        pass
    assert "0, about 0 names" in kblam("kb", "info", tmp_path / "empty.kb").ok().stdout


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1850, "1.9 kB"),
        (180_000, "180 kB"),
        (999_600, "1 MB"),
        (1_800_000_000, "1.8 GB"),
        (5e12, "5,000 GB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size_of(count) == text
