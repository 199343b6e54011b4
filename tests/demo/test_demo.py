"""`python -m kblam.demo`: what it tells is true of its base, fits the screen, and lands in the report."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from kblam.data.open_world import build_world
from kblam.data.real.packages import package_folder
from kblam.demo import run as command
from kblam.demo.facts import TRIPLES, Story, story
from kblam.demo.screen import WIDTH, figures_of, next_steps, show
from kblam.demo.tiny.tables import figures_table
from kblam.errors import DataError
from kblam.evaluation.figures import Figures
from kblam.evaluation.loop import RememberingEncoder
from kblam.generation import Answer
from kblam.generation.evidence import Evidence
from kblam.knowledge import Triple
from tests.evaluation.subjects import ENCODER, TEMPLATE, tiny_subject
from tests.generation.tiny import FACTS
from tests.warm import run


def _has_elements() -> bool:
    try:
        return package_folder("mendeleev", "").is_dir()
    except DataError:
        return False


elements = pytest.mark.skipif(not _has_elements(), reason="needs the package mendeleev (make setup)")
LONG = Triple("A Name Of Many Words And Then Some", "property", "a value that no screen of eighty columns could hold")


@pytest.fixture(scope="module")
def told() -> Story:
    return story()


def screen() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=WIDTH, force_terminal=False), written


def facts_in(told: Story, question: str) -> list[Triple]:
    named = [triple for triple in [*told.invented, *told.elements] if triple.name.lower() in question.lower()]
    words = {"released": "release date", "discovered": "discoverer"}
    asked = [words.get(word, word) for word in question.rstrip("?").split()] + [question]
    return [triple for triple in named if any(triple.property in text for text in asked)]


@elements
def test_the_base_holds_what_is_asked_and_not_what_is_refused(told: Story) -> None:
    assert len(told.invented) + len(told.elements) == TRIPLES
    assert len(told.before) + 1 == 8
    *answerable, missing, unknown = told.before
    assert all(facts_in(told, question) for question in answerable)
    assert len(facts_in(told, answerable[-1])) >= 2, "a question about two facts"
    assert not facts_in(told, missing)
    assert not facts_in(told, unknown)
    assert told.after == unknown
    assert told.added.name in unknown


@elements
def test_one_value_is_a_long_number(told: Story) -> None:
    values = [triple.value for question in told.before for triple in facts_in(told, question)]
    assert max(sum(character.isdigit() for character in value) for value in values) >= 16


@elements
def test_the_invented_half_is_the_side_that_training_never_sees(told: Story) -> None:
    train = build_world(0, 2000, 0).train
    assert not {entity.name for entity in train} & {triple.name for triple in told.invented}
    assert not {value for entity in train for value in entity.facts.values()} & {t.value for t in told.invented}


def test_every_line_fits_the_screen() -> None:
    console, written = screen()
    answer = Answer("word " * 40, (Evidence(LONG, 0.9), Evidence(FACTS[0], 0.06), Evidence(FACTS[1], 0.01)), False, 9)
    show(console, "is it " * 30, answer, "I do not\nknow " * 20)
    next_steps(console)
    console.print(figures_table({"10,000": Figures(exact=1.0, exact_single=0.25)}, ""))
    console.print(figures_of({10_000: Figures(exact_single=1.0, top1=0.5)}, 40))
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert sum("█" in line for line in lines) == 2, "a share that is next to nothing is not drawn"
    assert sum(line.startswith("  without knowledge: I do not know I do") for line in lines) == 1
    assert "  ██████████████████░░ 0.90  the property of A Name" in written.getvalue()
    tiny, row = (line for line in lines if "10,000" in line)
    assert "1.000" in row
    assert tiny.count("│") == 9, "a whole table, no cell cut or folded"
    assert "0.250" in tiny
    assert "…" not in "".join(lines[lines.index(tiny) - 3 :])
    assert "0.500" in row


def test_what_stdout_lacks_is_escaped_and_the_demo_goes_on(warm: None) -> None:
    code = r"""
import sys
sys.stdout.reconfigure(encoding="ascii", errors="strict")
from rich.console import Console
from kblam import Triple
from kblam.demo.screen import show
from kblam.generation import Answer, Evidence
from kblam.interrupts import leave
def main():
    fact = Triple("Ingrid \xd8deg\xe5rd", "Stra\xdfe", "\u6771\u4eac")
    show(Console(), "Stra\xdfe?", Answer("It is \u6771\u4eac.", (Evidence(fact, 0.9),), False, 3), "\xc4h")
leave(main)
"""
    done = run("-c", code, COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"It is \u6771\u4eac." in done.stdout
    assert r"##################.. 0.90  the Stra\xdfe of Ingrid \xd8deg\xe5rd: \u6771\u4eac" in done.stdout


def test_a_refusal_rests_on_nothing() -> None:
    console, written = screen()
    show(console, "who?", Answer("I am sorry.", (Evidence(FACTS[0], 0.9),), True, 3))
    assert "█" not in written.getvalue()


@elements
def test_the_whole_demo_is_one_screen_and_a_report(
    told: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_subject()
    demo = command.Demo(tiny.model, tiny.tokenizer, RememberingEncoder(ENCODER), TEMPLATE)
    monkeypatch.setattr(command, "load", lambda _: demo)
    console, written = screen()
    command.run(console, tmp_path, (50, 100), 8, tmp_path / "build" / "demo.json")
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.startswith("Q ") for line in lines) == 8
    assert any(line.startswith("+ the lead engineer of Project Nightjar") for line in lines)
    assert sum(line.startswith("  without knowledge: ") for line in lines) == 8
    assert "A bar is the share of the attention that a triple got" in written.getvalue()
    assert lines[-1].endswith('kblam ask "What is the color of Amber Falcon?" --kb facts.kb')
    assert lines[-2].endswith("kblam kb build facts.jsonl -o facts.kb")
    content = json.loads((tmp_path / "build" / "demo.json").read_text())
    assert set(content) == {"model", "sizes", "ms_per_token", "backend"}
    assert content["model"] == "smollm2"
    assert set(content["sizes"]) == {"50", "100"}
    assert {"exact", "top1", "refusal_recall"} <= set(content["sizes"]["50"])
    assert content["ms_per_token"]["with"] > 0


def test_without_an_adapter_the_way_to_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kblam.shipped.SMOLLM2_ADAPTER", tmp_path)
    monkeypatch.setattr(command, "SMOLLM2_ADAPTER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["kblam.demo"])
    assert command.main() == 2
    assert "kblam train" in capsys.readouterr().err
