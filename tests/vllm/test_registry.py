"""The folder of an engine: it goes with the process that made it, or with the next engine where that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from kblam.vllm.registry import Registry, folder_of, open_folder

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
