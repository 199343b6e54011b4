"""Without a compiler, or with one that fails, the reference serves, and one line has the reason."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from kblam_kernels import BackendUnavailableError, explain
from kblam_kernels.common import build, native
from kblam_kernels.errors import BuildError
from tests.kernels.cpu.building import CALL


def test_no_compiler_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler: install g\+\+ or clang"):
        build.library()
    monkeypatch.setenv("CXX", "nowhere++")
    with pytest.raises(BuildError, match=r"CXX=nowhere\+\+ is not a program"):
        build.library()


def test_a_failed_compilation_shows_what_the_compiler_said(fake_compiler: Path) -> None:
    Path(os.environ["CXX"]).write_text("#!/bin/sh\necho 'types.h:1: a cosmic ray' >&2\nexit 1\n")
    with pytest.raises(BuildError, match="a cosmic ray"):
        build.library()
    assert not list(Path(os.environ[build.CACHE_VARIABLE]).rglob(build.LIBRARY))


def says(text: str) -> None:
    """The compiler fails, with these words."""
    Path(os.environ["CXX"]).write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{text}\nEND\nexit 1\n")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "In file included:\n tile.h:7:1: error: no such thing\n   7 | thing\nb.h:2:1: error: also",
            "error: no such thing",
        ),
        ("collect2: cannot find -lc10", "cannot find -lc10"),
        ("", ""),
    ],
    ids=["first-error", "last-line", "silent"],
)
def test_with_a_failing_compiler_the_reference_serves_and_one_line_has_its_reason(
    output: str,
    reason: str,
    fake_compiler: Path,
    fresh_load: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    says(output)
    with caplog.at_level(logging.WARNING, logger="kblam_kernels"):
        explanation = explain(CALL.query, CALL.key, CALL.value)
        CALL.run(backend="auto")
    assert explanation.backend == "reference"
    said = explanation.rejected["cpu"]
    assert said.startswith("the C++ kernels are not available: the compiler failed: ")
    assert reason in said
    assert said.endswith(" (python -m kblam_kernels build shows all)")
    assert "\n" not in said
    assert len(said) < 450  # not the whole command
    (line,) = [record.getMessage() for record in caplog.records if not getattr(record, "note", False)]
    assert reason in line
    with pytest.raises(BackendUnavailableError, match="the compiler failed"):
        CALL.run(backend="cpu")


def test_a_cache_that_cannot_be_written_is_named(fake_compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.CACHE_VARIABLE, "/dev/null/cache")
    with pytest.raises(BuildError, match=r"/dev/null/cache.*set KBLAM_CACHE"):
        build.library()


def test_the_command_prints_the_path_or_the_reason(
    fake_compiler: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.main([]) == 0
    assert build.LIBRARY in capsys.readouterr().out
    monkeypatch.setenv("CXX", "nowhere++")
    assert build.main(["--force"]) == 1
    assert "nowhere++" in capsys.readouterr().err


def test_without_a_compiler_the_reference_serves_and_one_line_says_so(
    fresh_load: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv(native.BUILD_VARIABLE, raising=False)
    monkeypatch.setenv("CXX", "nowhere++")
    with caplog.at_level(logging.WARNING, logger="kblam_kernels"):
        for _ in range(3):
            CALL.run(backend="auto")
    assert len(caplog.records) == 1
    assert "CXX=nowhere++ is not a program" in caplog.text
    explanation = explain(CALL.query, CALL.key, CALL.value)
    assert explanation.backend == "reference"
    assert "no C++ compiler" in explanation.rejected["cpu"]
    with pytest.raises(BackendUnavailableError, match=r"'cpu' cannot serve this call.*nowhere"):
        CALL.run(backend="cpu")
