"""What is printed: no stored text commands the terminal, in any encoding, to any kind of stdout."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from kblam import KnowledgeBase, Triple
from kblam.cli import output
from kblam.cli.output import SafeConsole, evidence_lines, visible
from kblam.generation import Evidence
from tests.cli.conftest import ENCODER, command_line, kblam

BAD = "green\x1b]52;c;Y3VybA==\x07\x1b[2J\x9b8m\u202e\x7f"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A knowledge base whose texts hold what terminals obey."""
    path = tmp_path / "hostile.kb"
    with KnowledgeBase.create(path, ENCODER) as kb:
        kb.add([Triple(f"Amber{BAD}", f"color{BAD}", BAD), Triple("東京 😀", "height", "333 m")])
    return path


def test_a_stored_text_does_nothing_to_the_terminal(hostile: Path) -> None:
    for arguments in (
        ["list", hostile],
        ["list", hostile, "--json"],
        ["list", hostile, "--search", "amber"],
        ["remove", hostile, "amber"],
        ["info", hostile],
    ):
        run = kblam("kb", *arguments)
        for said in (run.stdout, run.stderr):
            assert not set(said) & set("\x1b\x07\x9b\u202e\x7f"), (arguments, said)
    assert "\\x1b[2J" in kblam("kb", "list", hostile).stdout
    assert kblam("kb", "list", hostile, "--json").json["triples"][0]["value"] == BAD


def test_triples_as_json_lines_do_nothing_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.data.real.load", lambda name, source: [Triple("Amber", "color", BAD)])
    shown = kblam("data", "elements").ok().stdout
    assert not set(shown) & set("\x1b\x07\x9b\u202e\x7f"), shown
    assert json.loads(shown)["value"] == BAD


def test_one_helper_prints_json() -> None:
    """`data questions` writes a file of lines, and prints none of it."""
    rooms = Path(output.__file__).parent
    files = {str(file.relative_to(rooms)): file.read_text("utf-8") for file in rooms.rglob("*.py")}
    assert {name for name, text in files.items() if "json.dump" in text} == {"output.py", "data/questions.py"}
    assert files["data/questions.py"].count("json.dump") == 1
    assert "file.write(json.dumps(" in files["data/questions.py"]


def test_styles_of_our_own_still_work() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, color_system="standard", width=80)
    table = Table("a\x1b[2Jb", width=40)
    table.add_row("[red]c[/]\x1b[8m")
    console.print(table)
    console.print("[bold]d[/]")
    shown = file.getvalue()
    assert "\x1b[2J" not in shown
    assert "\x1b[8m" not in shown
    assert "\\x1b[2J" in shown
    assert "\x1b[31m" in shown
    assert "\x1b[1md" in shown


def test_evidence_is_shown_as_text() -> None:
    console = SafeConsole(file=io.StringIO(), force_terminal=True, width=200)
    for line in evidence_lines([Evidence(Triple("Amber", "color", BAD), 0.9)]):
        console.print(line)
    assert "\x1b]52" not in console.file.getvalue()  # type: ignore[attr-defined]
    assert visible(BAD).startswith("green\\x1b]52;c;Y3VybA==\\x07")


def run(
    *arguments: object, stdout: int = subprocess.PIPE, closed: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command_line(), *map(str, arguments)],
        preexec_fn=(lambda: os.close(1)) if closed else None,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=300,
        env={**os.environ, "PYTHONUTF8": "0", **environment},
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_stdout_that_lacks_characters_gets_escapes(hostile: Path, encoding: str) -> None:
    done = run("kb", "list", hostile, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u6771" in done.stdout
    done = run("kb", "list", hostile, "--json", PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout)["triples"][1]["name"] == "東京 😀"
    done = run("kb", "remove", hostile, "東", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert "there is no" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [["--json"], [], ["--limit", "1"]], ids=str)
def test_a_full_stdout_is_told(hostile: Path, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = run("kb", "list", hostile, *arguments, stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write to standard output: No space left on device")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error_to_report(hostile: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("kb", "list", hostile, "--json", stdout=write)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_reader_of_stderr_that_has_gone_changes_no_exit_status(hostile: Path, tmp_path: Path) -> None:
    exported = ["kb", "export", hostile, "-o", tmp_path / "out.jsonl"]
    interrupted = "from kblam import interrupts\ndef stop(): raise KeyboardInterrupt\ninterrupts.leave(stop)"
    for command, status in (
        ([*command_line(), "kb", "list", tmp_path / "none.kb"], 2),
        ([*command_line(), *exported], 0),
        ([sys.executable, "-c", interrupted], 130),
    ):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=write, timeout=300)
        os.close(write)
        assert (done.returncode, done.stdout) == (status, b""), command


@pytest.mark.parametrize("arguments", [["--json"], []], ids=str)
def test_a_closed_stdout_is_told(hostile: Path, arguments: list[str]) -> None:
    done = run("kb", "list", hostile, *arguments, closed=True)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to standard output: it is closed; what was printed is not complete\n"


def test_a_question_in_another_encoding_is_refused() -> None:
    kblam("ask", "what is \udcff ?", "--kb", "x.kb").failed(2, "holds bytes that are no text ('\\udcff')")
