"""`kblam kb build`, `add` and `export` with files as people have them."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from kblam import KnowledgeBase, Triple
from kblam.cli import output
from kblam.data.exporting.bases import BASE_SUFFIXES
from kblam.data.importing.rdf import SUFFIXES
from kblam.errors import StoreFormatError
from kblam.knowledge import TripleFile, build, read_triples
from kblam.knowledge.files import FORMAT_OF_SUFFIX
from tests.cli.conftest import command_line, kblam
from tests.fakes import HashingEncoder, clock
from tests.generation.tiny import FACTS

TABLE = "Company,CEO,Founded\nAcme,Ann,1990\nBeta,Bo,1991\n"


def put(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    return path


def held(kb: Path) -> list[tuple[str, str, str]]:
    with KnowledgeBase.open(kb) as opened:
        return [(triple.name, triple.property, triple.value) for triple in opened.triples()]


def test_columns_are_chosen_by_map(hashing: HashingEncoder, tmp_path: Path) -> None:
    file, made = put(tmp_path, "a.csv", TABLE), tmp_path / "made.kb"
    kblam("kb", "build", file, "-o", made).failed(
        2, "a.csv:1: the first line must name the columns", "such as --map name=Company, and the others"
    )
    kblam("kb", "build", file, "-o", made, "--map", "name=Company").ok()
    assert held(made) == [
        ("Acme", "CEO", "Ann"),
        ("Acme", "Founded", "1990"),
        ("Beta", "CEO", "Bo"),
        ("Beta", "Founded", "1991"),
    ]
    more = put(tmp_path, "b.csv", TABLE.replace("Bo", "Bert"))
    added = kblam("kb", "add", made, more, "--map", "name=Company", "--map", "ignore=Founded", "--json").ok().json
    assert (added["updated"], added["unchanged"], added["skipped"]) == (1, 1, 0)
    kblam("kb", "build", file, "-o", made, "--map", "nme=Company").failed(2, "'nme=Company' is no choice of a column")
    kblam("kb", "add", made, "-n", "x", "-v", "y", "--map", "name=A").failed(2, "are for a FILE of triples")


def test_bad_lines_are_told_at_once_and_can_be_left_out(hashing: HashingEncoder, tmp_path: Path) -> None:
    file = put(tmp_path, "a.jsonl", '{"name":"A","value":"1"}\n{"name"\n{"name":"B"}\n{"name":"A","value":"2"}\n')
    made = tmp_path / "made.kb"
    run = kblam("kb", "build", file, "-o", made)
    lines = run.stderr.splitlines()
    assert (run.status, run.stdout) == (2, "")
    assert lines[0] == f"error: {file}: 3 records cannot be read (--skip-bad goes on without them)"
    assert [line[:10] for line in lines[1:]] == ["  line 2: ", "  line 3: ", "  line 4: "]
    assert "--map value=COLUMN" in lines[2]
    assert "--duplicates last" in lines[3]
    assert "=True" not in run.stderr
    assert "Columns(" not in run.stderr
    assert not made.exists()
    run = kblam("kb", "build", file, "-o", made, "--skip-bad").ok()
    assert "(1 added, 0 updated, 0 unchanged; 3 records left out)" in run.stdout
    assert kblam("kb", "add", made, file, "--skip-bad", "--json").ok().json["skipped"] == 3


def test_outside_of_the_command_messages_name_arguments(hashing: HashingEncoder, tmp_path: Path) -> None:
    file = put(tmp_path, "a.csv", "name,value\na,1\na,2\n")
    kblam("kb", "build", file, "-o", tmp_path / "made.kb").failed(2, "keep the later with --duplicates last")
    with pytest.raises(Exception, match=r'keep the later with duplicates="last"'):
        list(read_triples(file))


def test_a_property_is_called_what_people_call_it(hashing: HashingEncoder, tmp_path: Path) -> None:
    made = tmp_path / "made.kb"
    staff = put(tmp_path, "a.csv", "name,emp_start_dt,EmpStartDt\nAnn,2001,\nBo,,2002\n")
    kblam("kb", "build", staff, "-o", made, "--rename", "emp start dt=start date").ok()
    assert held(made) == [("Ann", "start date", "2001"), ("Bo", "start date", "2002")]
    more = put(tmp_path, "b.csv", "name,emp_start_dt,Start_Date\nCy,2003,2004\n")
    add = ("kb", "add", made, more, "--rename", "emp_start_dt=start date")
    kblam(*add).failed(2, "('Cy', 'start date') is on this line too, with other words", "--duplicates join")
    kblam(*add, "--duplicates", "join").ok()
    assert held(made)[-1] == ("Cy", "start date", "2003, 2004")
    kblam("kb", "build", staff, "-o", made, "--rename", "hired=start date").failed(
        2, 'there is no property \'hired\' to rename; the properties: "emp_start_dt", "EmpStartDt"'
    )
    kblam("kb", "add", made, "-n", "x", "-v", "y", "--rename", "a=b").failed(2, "are for a FILE of triples")
    own = '{"name": "Di", "property": "dt", "value": "1", "key_string": "%s"}\n'
    put(tmp_path, "c.jsonl", own % "the dt of Di" + own.replace("Di", "Ed") % "when Ed came")
    kept = list(TripleFile(tmp_path / "c.jsonl", renames={"dt": "start date"}))
    assert [triple.key_text for triple in kept] == ["the start date of Di", "when Ed came"]


def test_several_values_are_joined(hashing: HashingEncoder, kb: Path, tmp_path: Path) -> None:
    file = put(tmp_path, "a.tsv", "head\trelation\ttail\nOak\tuse\tships\nOak\tuse\tcasks\n")
    kblam("kb", "add", kb, file).failed(2, "--duplicates join")
    kblam("kb", "add", kb, file, "--duplicates", "join").ok()
    assert ("Oak", "use", "ships, casks") in held(kb)


def _run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command_line(), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **environment},
    )


def test_what_was_guessed_and_skipped_is_said_on_stderr(kb: Path, tmp_path: Path) -> None:
    file = put(tmp_path, "a.csv", "subject,predicate,object,note\nOak,kind,\x1b[2Jtree,x\nElm,kind,,\n")
    done = _run("kb", "build", file, "-o", tmp_path / "made.kb", "--skip-bad", "-e", "no-such-encoder", NO_COLOR="1")
    notes = done.stderr.splitlines()
    assert notes[0] == f"note: {file}: read 'subject' as name, 'predicate' as property, 'object' as value"
    assert notes[1] == f"warning: {file}: fields that are no part of a triple were not read: 'note' (once)"
    assert notes[2] == f"warning: {file}: 1 record that cannot be read was left out:"
    assert notes[3].startswith("  line 3: missing field")


# --- export ----------------------------------------------------------------------------------------------

HARD = Triple("name", "property", 'a "quoted"\nline; with, all\t\x1b[2J \u2028 東京', "key", "q?", "a.")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_an_exported_knowledge_base_is_built_again(
    hashing: HashingEncoder, kb: Path, tmp_path: Path, suffix: str
) -> None:
    with KnowledgeBase.open(kb, hashing) as opened:
        opened.add([HARD, Triple("\ufeffmark", "p", "v")])
    file = tmp_path / f"out.{suffix}"
    run = kblam("kb", "export", kb, "-o", file).ok()
    assert (run.stdout, run.stderr) == ("", f"{file}: 5 triples\n")
    kblam("kb", "build", file, "-o", tmp_path / "again.kb").ok()
    with KnowledgeBase.open(kb) as before, KnowledgeBase.open(tmp_path / "again.kb") as after:
        assert list(after.triples()) == list(before.triples())


def test_export_replaces_nothing_unasked(kb: Path, tmp_path: Path) -> None:
    file = put(tmp_path, "out.csv", "precious")
    kblam("kb", "export", kb, "-o", file).failed(2, f"{file}: there is a file already; --overwrite replaces it")
    assert file.read_text() == "precious"
    kblam("kb", "export", kb, "-o", file, "--overwrite").ok()
    assert list(read_triples(file)) == FACTS
    refused = kblam("kb", "export", kb, "-o", tmp_path / "x.txt")
    refused.failed(2, "cannot tell the format from 'x.txt'; name it .json, .jsonl, .ndjson, .csv, .tsv")
    assert ".xlsx" not in refused.stderr, "which is read, not written"
    kblam("kb", "export", kb, "-o", tmp_path / "no" / "x.csv").failed(2, "cannot write")
    assert sorted(entry.name for entry in tmp_path.iterdir() if "kb" not in entry.name) == ["out.csv"]


def test_a_file_that_appears_while_another_is_written_is_kept(tmp_path: Path) -> None:
    from kblam.errors import TripleFormatError
    from kblam.knowledge import write_triples

    def triples() -> object:
        yield FACTS[0]
        (tmp_path / "a.csv").write_text("precious")

    with pytest.raises(TripleFormatError, match="there is a file already; overwrite=True replaces it"):
        write_triples(tmp_path / "a.csv", triples(), overwrite=False)  # type: ignore[arg-type]
    assert (tmp_path / "a.csv").read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


def test_export_to_stdout_is_json_lines(kb: Path) -> None:
    lines = kblam("kb", "export", kb).ok().stdout.splitlines()
    assert [json.loads(line) for line in lines] == [fact.to_record() for fact in FACTS]


# --- progress --------------------------------------------------------------------------------------------


def test_building_shows_progress_without_a_terminal(
    hashing: HashingEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path, "a.csv", "name,value\n" + "".join(f"N{at},{at}\n" for at in range(40)))
    run = kblam("kb", "build", file, "-o", tmp_path / "quick.kb", "--batch-size", 10).ok()
    assert run.stderr == "", "what is quick says nothing"
    monkeypatch.setattr(output, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(output, "LONGEST_PAUSE", 0.0)
    run = kblam("kb", "build", file, "-o", tmp_path / "slow.kb", "--batch-size", 10).ok()
    lines = run.stderr.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"encoding: {done} of 40" for done in (10, 20, 30, 40)]
    assert lines[1].endswith(" left")


def test_pauses_between_lines_of_progress_grow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(output, "time", clock(lambda: now))
    with output.progress_bar("encoding") as progress:
        for second in range(1, 301):
            now = float(second)
            progress(second, 7200)
    told = [int(line.split()[1]) for line in capsys.readouterr().err.splitlines()]
    assert told == [5, 15, 35, 75, 135, 195, 255]


def test_what_came_before_says_nothing_about_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(output, "time", clock(lambda: now))
    monkeypatch.setattr(output, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(output, "LONGEST_PAUSE", 0.0)
    with output.progress_bar("importing") as progress:
        for now, done, total in ((600.0, 5000, 0), (700.0, 64, 164), (701.0, 74, 164), (702.0, 164, 164)):  # noqa: B007
            progress(done, total)
    assert capsys.readouterr().err.splitlines() == [
        "importing: 5,000",
        "importing: 64 of 164",
        "importing: 74 of 164, about 9 s left",
        "importing: 164 of 164",
    ]


def test_a_screen_that_cannot_go_back_in_a_line_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = output.SafeConsole(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(output, "err", screen)
    monkeypatch.setattr(output, "FIRST_PAUSE", 0.0)
    for term, has_lines in (("dumb", True), ("xterm", False)):
        monkeypatch.setenv("TERM", term)
        with output.progress_bar("encoding") as progress:
            assert isinstance(progress, output._ProgressLines) is has_lines


def test_a_knowledge_base_given_as_triples_is_told_apart(kb: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.kb"
    for line in (("kb", "build", kb, "-o", new), ("kb", "add", kb, kb), ("data", "import", kb, "-o", new)):
        kblam(*line).failed(2, "is a knowledge base already", f"kblam kb export {kb} -o {kb.stem}.jsonl")
    assert not new.exists()


def test_a_folder_given_as_triples_is_told_apart(kb: Path, tmp_path: Path) -> None:
    for line in (("kb", "build", tmp_path, "-o", tmp_path / "new.kb"), ("kb", "add", kb, tmp_path)):
        kblam(*line).failed(2, f"{tmp_path} is a folder; give a file of triples")


def test_a_folder_that_is_not_there_is_told_before_anything_is_loaded(
    facts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.knowledge.load_encoder", None)
    kblam("kb", "build", facts_file, "-o", tmp_path / "none" / "new.kb").failed(1, "there is no folder", "check that")


def test_an_output_that_can_be_no_knowledge_base_is_told_before_anything_is_read_or_encoded(
    facts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reading in ("kblam.knowledge.TripleFile", "kblam.data.importing.run.Reading"):
        monkeypatch.setattr(reading, None)
    monkeypatch.setattr("kblam.knowledge.load_encoder", lambda *_, **__: HashingEncoder())
    notes, new = put(tmp_path, "notes.txt", "mine"), tmp_path / "new.jsonl"
    kblam("kb", "build", facts_file, "-o", new).failed(2, "the ending of a file of triples", f"{tmp_path / 'new.kb'}")
    assert not new.exists()
    for command in ("kb", "build"), ("data", "import"):
        line = (*command, facts_file, "-e", "minilm", "-o")
        kblam(*line, notes).failed(2, "notes.txt is not a knowledge base")
        kblam(*line, notes / "new.kb").failed(1, "there is no folder")
    with pytest.raises(StoreFormatError, match=r"is the ending of a file of triples"):
        build(tmp_path / "new.csv", [Triple("Oak", "height", "3")], HashingEncoder())
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("suffix", sorted({*SUFFIXES, *BASE_SUFFIXES, ".gz", ".lbug"} - {*FORMAT_OF_SUFFIX}))
def test_no_knowledge_base_gets_the_ending_of_another_kind_of_file(tmp_path: Path, suffix: str) -> None:
    facts = [Triple("Oak", "height", "3")]
    with pytest.raises(StoreFormatError, match=r"another kind of file, .+ name it .+new\.kb\. `kblam data export`"):
        build(tmp_path / f"new{suffix}", facts, HashingEncoder())
    assert not any(tmp_path.iterdir())


def test_a_knowledge_base_that_ends_as_a_file_of_triples_is_one(hashing: HashingEncoder, kb: Path) -> None:
    """Earlier releases encoded into such files, and then would not open them."""
    odd = kb.rename(kb.with_suffix(".jsonl"))
    assert kblam("kb", "info", odd, "--json").ok().json["triples"] == 3
    kblam("kb", "build", odd, "-o", kb).failed(2, "is a knowledge base already")
    kblam("kb", "export", odd, "-o", kb.with_suffix(".csv")).ok()


def test_numbers_beyond_64_bits_are_numbers(kb: Path) -> None:
    for words in ((), ("--search", "a")):
        shown = [kblam("kb", "list", kb, "--limit", limit, *words).ok().stdout for limit in (10**30, 1000)]
        assert shown[0] == shown[1]
    for line in (("eval", "--kb", kb, "--questions"), ("data", "questions", kb, "--count")):
        run = kblam(*line, 10**30)
        assert run.status == 2
        assert "less than or equal to 1000000" in " ".join(run.stderr.replace("│", " ").split())


def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    for line in (("kb", "list", "x" * 5000), ("ask", "hello", "--model", "x" * 5000), ("kb", "build", "x" * 5000)):
        run = kblam(*line, *(("-o", tmp_path / "new.kb") if line[1] == "build" else ()))
        run.failed(2, "File name too long")
        assert len(run.stderr) < 400


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", [("kb", "build"), ("data", "import")])
def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(tmp_path: Path, command: tuple[str, str]) -> None:
    pipe = tmp_path / "facts.csv"
    os.mkfifo(pipe)
    kblam(*command, pipe, "-o", tmp_path / "x.kb").failed(2, f"{pipe}: it is no file but a pipe")
