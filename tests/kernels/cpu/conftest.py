"""A compiler that notes its runs, and a process that has loaded nothing yet."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kblam_kernels.common import build, native
from tests.kernels.cpu.building import COMPILER


@pytest.fixture
def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that takes no time; returns the file with one line for each time it ran."""
    script = tmp_path / "fake c++"
    script.write_text(COMPILER)
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("LOG", str(log))
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "cache of $me"))
    return log


@pytest.fixture
def fresh_load() -> Iterator[None]:
    """The outcome of an earlier load is forgotten, here and afterwards."""
    native._load.cache_clear()
    yield
    native._load.cache_clear()
