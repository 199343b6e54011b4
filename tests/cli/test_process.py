"""The command as a process of its own: start-up, clean streams, exit statuses, interruption."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kblam import cli
from kblam.data.temporary import on_disk
from tests.cli.conftest import command_line, kblam
from tests.generation.tiny import EMBEDDING_DIM
from tests.warm import run

HEAVY = ("torch", "transformers", "numpy", "sentence_transformers", "huggingface_hub", "httpx")


def in_process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [*command_line(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, **options)  # type: ignore[call-overload]


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from kblam.cli import main
try: main(["--help"])
except SystemExit as end: assert end.code == 0
print(sorted(set(sys.modules) & set({HEAVY!r})), len(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    heavy, loaded = done.stderr.rsplit(maxsplit=1)
    assert heavy == "[]"
    # Modules and not seconds, which are another machine's too: 420 take half a second, and with torch they are 2,000.
    assert int(loaded) < 600
    for command in ("kb", "ask", "chat", "integrate", "convert", "doctor"):
        assert command in done.stdout


def test_looking_into_a_knowledge_base_loads_neither_torch_nor_transformers(kb: Path) -> None:
    code = f"""
import sys
from kblam.cli import main
try: main(["kb", "list", {str(kb)!r}])
except SystemExit as end: assert end.code == 0
print(sorted(set(sys.modules) & {{"torch", "transformers", "sentence_transformers"}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr.strip() == "[]"
    assert "Zirconia" in done.stdout


def test_a_real_build_with_the_default_encoder(facts_file: Path, tmp_path: Path, warm: None) -> None:
    done = run("-m", "kblam", "kb", "build", facts_file, "-o", tmp_path / "made.kb", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["added"], result["encoder"]) == (3, "sentence-transformers/all-MiniLM-L6-v2")
    assert kblam("kb", "info", tmp_path / "made.kb", "--json").ok().json["dimension"] == 384


def test_errors_go_to_stderr_with_their_status(tmp_path: Path) -> None:
    done = in_process("kb", "list", tmp_path / "none.kb", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no knowledge base ")
    assert "Traceback" not in done.stderr


def test_debug_shows_where(tmp_path: Path) -> None:
    done = in_process("--debug", "kb", "list", tmp_path / "none.kb")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "StoreError: there is no knowledge base" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["kb", "list"], ["--no-such-option"], ["fly"], ["kb", "list", "x", "--limit", "-1"]]
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    run = kblam(*arguments)
    assert run.status == 2
    assert "Usage" in run.stderr
    assert run.stdout == ""


def test_what_nobody_foresaw_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("kblam.cli.app.app", lambda **_: fail())
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor"])
    assert end.value.code == 1
    shown = capsys.readouterr().err
    assert "error: unexpected ZeroDivisionError: division by zero" in shown
    assert "kblam doctor" in shown
    with pytest.raises(ZeroDivisionError):
        cli.main(["--debug", "doctor"])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS], ids=errno.errorcode.get)
def test_a_path_that_the_system_refuses_is_one_line(kb: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """pathlib raises it where it only asks what a path is, so it may come from anywhere."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "/locked/facts.kb")

    monkeypatch.setattr("kblam.knowledge.KnowledgeBase.open", fail)
    kblam("kb", "list", kb).failed(2, f"{os.strerror(code)}: /locked/facts.kb; ")


def test_a_file_that_may_not_be_read_is_said_by_the_command_and_not_by_typer(
    facts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typer would refuse it in a box, and a place that is only written too."""
    target = tmp_path / "a.jsonl"
    target.write_text("")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.R_OK and access(path, mode, **more))
    kblam("data", "export", facts_file, "-o", target, "--overwrite").ok()
    locked = OSError(errno.EACCES, os.strerror(errno.EACCES), str(facts_file))

    def refuse(*_: object, **__: object) -> None:
        raise locked

    for command in (("kb", "build", facts_file, "-o", "x.kb"), ("data", "import", facts_file, "-o", tmp_path / "x.kb")):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", refuse)
            kblam(*command).failed(2, f"{facts_file}: cannot read: Permission denied")
    with monkeypatch.context() as patched:
        patched.setattr("kblam.knowledge.KnowledgeBase.open", refuse)
        for command in (("kb", "list", facts_file.with_suffix(".kb")), ("kb", "info", facts_file.with_suffix(".kb"))):
            command[2].touch()
            kblam(*command).failed(2, "Permission denied")


def _wrapped(error: OSError) -> RuntimeError:
    """As a library raises what the system told it."""
    wrapper = RuntimeError("cannot serialize")
    wrapper.__cause__ = error
    return wrapper


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FULL, "error: No space left on device; make room"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "report.json"), "exceeded for report.json; make room"),
        (_wrapped(FULL), "error: No space left on device; make room"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "error: No space left on device; make room"),
    ],
    ids=["write", "quota", "wrapped", "quoted"],
)
def test_a_full_device_is_one_line(kb: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("kblam.knowledge.KnowledgeBase.open", fail)
    done = kblam("kb", "list", kb)
    assert done.status == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["copy.jsonl", "copy.ttl"])
def test_a_full_device_is_no_bad_input(
    facts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FULL

    monkeypatch.setattr("os.fsync", fail)
    kblam("data", "export", facts_file, "-o", tmp_path / name).failed(1, f"{name}: cannot write: No space left")
    assert not (tmp_path / name).exists()


def test_without_room_for_what_was_read_an_import_fails(
    facts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("kblam.data.importing.stage.Stage._add_fact", on_disk()(fail))
    kblam("data", "import", facts_file, "-o", tmp_path / "x.jsonl").failed(1, "disk is full; SQLITE_TMPDIR names")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(KeyboardInterrupt(), 130, "interrupted"), (MemoryError("4 GiB"), 1, "out of memory: 4 GiB; use a smaller")],
    ids=["^C", "memory"],
)
def test_interruption_and_memory(
    kb: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("kblam.knowledge.KnowledgeBase.open", fail)
    run = kblam("kb", "list", kb)
    assert run.status == status
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_out_of_memory_names_what_the_command_has(kb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("4 GiB")

    for work in ("cli.ask.load", "knowledge.KnowledgeBase.open", "training.processes.start"):
        monkeypatch.setattr(f"kblam.{work}", fail)
    of_dtype = "use --dtype bfloat16, a smaller model, or a smaller knowledge base"
    kblam("ask", "what is it ?", "--kb", kb).failed(1, f"out of memory: 4 GiB; {of_dtype}")
    kblam("kb", "list", kb).failed(1, "4 GiB; use a smaller model or a smaller knowledge base")
    told = kblam("train", "-o", tmp_path / "new")
    told.failed(1, "4 GiB; use a smaller --per_device_train_batch_size or --triples or a smaller model")


def test_control_c_is_status_130(kb: Path, tmp_path: Path) -> None:
    """A real signal, while a slow encoder works."""
    code = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
import kblam.cli, kblam.knowledge.knowledge_base
from tests.fakes import HashingEncoder

class Slow(HashingEncoder):
    def encode(self, texts, **options):
        print("encoding", flush=True)
        time.sleep(60)

kblam.knowledge.knowledge_base.load_recorded_encoder = lambda spec, device: Slow({EMBEDDING_DIM})
kblam.cli.main(["kb", "add", {str(kb)!r}, "--name", "x", "--value", "y"])
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "encoding\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert kblam("kb", "info", kb, "--json").ok().json["triples"] == 3


@pytest.mark.parametrize(
    "where", ["kblam.cli.streams.prepare", "kblam.cli.app.app", "kblam.cli.streams.finish"], ids=lambda name: name[10:]
)
def test_control_c_at_any_moment_is_status_130(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 130
