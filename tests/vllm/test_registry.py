"""The folder of an engine: it goes with the process that made it, or with the next engine where that was killed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kblam import KnowledgeBase, Triple
from kblam.errors import EngineError
from kblam.vllm import registry
from kblam.vllm.past import Past
from kblam.vllm.registry import Loaded, Registry, folder_of, open_folder
from kblam.vllm.response import said_of
from tests.fakes import HashingEncoder

ENGINE = """
import sys, tempfile, time
from types import SimpleNamespace
from kblam.vllm.registry import Registry, open_folder

config = SimpleNamespace(instance_id=sys.argv[1])
open_folder(config)
Registry(config).say_in_use(frozenset())
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def engine(name: str) -> subprocess.Popen[str]:
    """Another process with an engine, whose folder is there."""
    command = [sys.executable, "-c", ENGINE, name]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "open\n"
    return started


def test_what_a_killed_engine_left_goes_with_the_next_start_and_nothing_else(tmp_path: Path) -> None:
    killed, running, ended = engine("killed"), engine("running"), engine("ended")
    (tmp_path / "kblam-vllm-another").mkdir()  # of a release that locks nothing
    (tmp_path / "kblam-vllm-link").symlink_to(tmp_path / "kblam-vllm-killed")
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    ended.communicate("\n", timeout=60)
    assert folder_of(SimpleNamespace(instance_id="killed")).is_dir()
    assert not folder_of(SimpleNamespace(instance_id="ended")).exists()
    config = SimpleNamespace(instance_id="new")
    open_folder(config)
    names = {path.name.removeprefix("kblam-vllm-") for path in tmp_path.iterdir()}
    assert names == {"running", "new", "another", "link"}
    assert folder_of(config).stat().st_mode & 0o777 == 0o700
    Registry(config).say_in_use(frozenset({7}))
    assert Registry(config).in_use() == {7}
    running.communicate("\n", timeout=60)


def failing(code: int) -> Callable[..., Any]:
    """A call that the machine refuses."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fails


@pytest.fixture
def opened() -> SimpleNamespace:
    """The config of an engine whose folder is there."""
    config = SimpleNamespace(instance_id="x")
    open_folder(config)
    Registry(config).say_bases({"facts": Loaded(1, 1, 2, "facts.kb", "0.1")})
    return config


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "make room there, or set TMPDIR to a folder that has some"),
        (errno.EMFILE, r"raise the limit of open files \(ulimit -n\)"),
        (errno.EACCES, "see that this user may read and write there"),
    ],
)
def test_what_the_machine_says_of_the_folder_is_an_error_of_the_engine(
    opened: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, code: int, fix: str
) -> None:
    """As it comes it would end the scheduler; and no other request would help."""
    base = KnowledgeBase.from_triples([Triple("Falcon", "color", "green")], HashingEncoder(16))
    folder, past = folder_of(opened), Past(folder_of(opened))
    past.keep(base, [("Falcon", "color")])
    found = Registry(opened)
    message = rf"temporary files, {folder} \({os.strerror(code)}\); {fix}"
    monkeypatch.setattr(registry, "write_whole", failing(code))
    for write in (
        lambda: found.say_in_use(frozenset({1})),
        lambda: found.say_bases({}),
        lambda: past.keep(base, [("Falcon", "color")]),
    ):
        with pytest.raises(EngineError, match=message) as refused:
            write()
        assert said_of(refused.value)["of_request"] is False
    (folder / "in_use.json").touch()
    monkeypatch.setattr(Path, "read_bytes", failing(code))
    for read in (found.bases, found.in_use, lambda: Past(folder).words(base, [1], 1)):
        with pytest.raises(EngineError, match=message):
            read()


def test_a_folder_that_cannot_be_made_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "held", failing(errno.ENOSPC))
    with pytest.raises(EngineError, match=rf"{tmp_path} \(No space left on device\); make room there"):
        open_folder(SimpleNamespace(instance_id="x"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_tidied_up_is_made_again_for_this_user_alone(opened: SimpleNamespace) -> None:
    """It holds words of knowledge bases."""
    shutil.rmtree(folder_of(opened))
    Registry(opened).say_in_use(frozenset({7}))
    assert folder_of(opened).stat().st_mode & 0o777 == 0o700
