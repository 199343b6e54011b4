"""The command line in this process, with a quick encoder; a tiny model, an adapter and a knowledge base on disk."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kblam import KnowledgeBase
from kblam.cli.app import app
from kblam.cli.output import err, out
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM, FACTS, make_prefer, tiny_adapter, tiny_model, tiny_tokenizer

ENCODER = HashingEncoder(EMBEDDING_DIM)


class Run:
    """One run of the command, and how it went."""

    def __init__(self, arguments: Sequence[object], typed: str | None = None) -> None:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)
        # What no handler foresaw must fail the test, not look like a failed command.
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.status, self.stdout, self.stderr = result.exit_code, result.stdout, result.stderr

    @property
    def json(self) -> Any:
        """stdout, all of it, as JSON."""
        return json.loads(self.stdout)

    def ok(self) -> Run:
        """Itself, after checking that it succeeded."""
        assert self.status == 0, self.stderr
        return self

    def failed(self, status: int, *words: str) -> Run:
        """Itself, after checking its exit status, and that stderr is one error line with these words."""
        assert self.status == status, (self.status, self.stdout, self.stderr)
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0]
        assert self.stdout == ""
        return self


def kblam(*arguments: object, typed: str | None = None) -> Run:
    """Runs the command in this process."""
    return Run(arguments, typed)


@pytest.fixture(autouse=True)
def _pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed goes to pipes, which have no width, wherever the tests are run."""
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    out._width = err._width = None


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> HashingEncoder:
    """Every encoder that a command loads by name is this one."""
    encoder = HashingEncoder(EMBEDDING_DIM)
    load: Callable[..., HashingEncoder] = lambda *_, **__: encoder  # noqa: E731
    monkeypatch.setattr("kblam.knowledge.load_encoder", load)
    monkeypatch.setattr("kblam.knowledge.knowledge_base.load_recorded_encoder", load)
    return encoder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model; layer 0 has what `make_prefer` needs."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    make_prefer(model, tiny_adapter(model, ENCODER), ENCODER, FACTS[0])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for it that gives all attention of layer 0 to the first fact."""
    folder = tmp_path_factory.mktemp("adapter")
    model = tiny_model(tiny_tokenizer())
    made = tiny_adapter(model, ENCODER, base_model=str(base))
    make_prefer(model, made, ENCODER, FACTS[0])
    made.save_pretrained(folder)
    return folder


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    """A knowledge base of the three facts."""
    file = tmp_path / "facts.kb"
    with KnowledgeBase.create(file, ENCODER) as made:
        made.add(FACTS)
    return file


@pytest.fixture
def facts_file(tmp_path: Path) -> Path:
    """The three facts as JSON Lines."""
    file = tmp_path / "facts.jsonl"
    file.write_text("".join(json.dumps(fact.to_record()) + "\n" for fact in FACTS), encoding="utf-8")
    return file


@pytest.fixture
def model_folder(base: Path, adapter: Path, kb: Path, tmp_path: Path) -> Path:
    """The three in one folder."""
    kblam("integrate", base, adapter, kb, "-o", tmp_path / "folder").ok()
    return tmp_path / "folder"


@pytest.fixture
def demo(base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tests' tiny model in the place of the shipped one, and no adapter for SmolLM2."""
    folder = tmp_path / "assets"
    shutil.copytree(base, folder / "model")
    shutil.copytree(adapter, folder / "adapter")
    monkeypatch.setattr("kblam.shipped.DEMO", folder)
    monkeypatch.setattr("kblam.shipped.SMOLLM2_ADAPTER", tmp_path / "no adapter")
    return folder


@pytest.fixture
def smollm2(base: Path, adapter: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tests' tiny model in the place of SmolLM2, its adapter in the place of the shipped one."""
    folder = tmp_path / "smollm2"
    shutil.copytree(adapter, folder)
    monkeypatch.setattr("kblam.shipped.SMOLLM2_ADAPTER", folder)
    monkeypatch.setattr("kblam.models.smollm2.source", lambda: str(base))
    return folder


def command_line() -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "kblam"]
