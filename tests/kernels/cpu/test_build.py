"""Building on first use: a cache that changes with what it is made of, one builder at a time, clear refusals."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kblam_kernels import explain
from kblam_kernels.common import build, native
from kblam_kernels.errors import BuildError
from tests.kernels.cpu.building import CALL, COMPILER, runs
from tests.warm import ended, run, start


def test_builds_once_and_then_serves_from_the_cache(fake_compiler: Path) -> None:
    first = build.library()
    assert first.read_text() == "built\n"
    files = runs(fake_compiler)
    assert files == len(build.units(build.source_folder())) + 1  # and the link
    assert build.library() == first
    assert runs(fake_compiler) == files
    assert build.library(force=True) == first
    assert runs(fake_compiler) == 2 * files
    assert sorted(path.name for path in first.parent.iterdir()) == [build.LIBRARY, build.CHECKSUM, "lock"]


def test_a_build_says_what_takes_so_long(
    fake_compiler: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = len(build.units(build.source_folder()))
    monkeypatch.setattr(build, "_TELL_EVERY", 0.0)
    build.library()
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"compiling the C++ kernels, once for this machine: {files} files with ")
    assert said[1].startswith(f"1 of {files} files compiled after ")
    assert said[-1].startswith("compiled the C++ kernels in ")
    assert len(said) == files + 1
    assert all(record.levelno == logging.WARNING and record.note for record in caplog.records)  # type: ignore[attr-defined]
    caplog.clear()
    build.library()
    assert not caplog.records, "only what takes time is told"


def test_two_processes_build_once(fake_compiler: Path, tmp_path: Path, warm: None) -> None:
    code = "from kblam_kernels.common import build; print(build.library())"
    files = [{1: tmp_path / f"out{number}", 2: tmp_path / f"err{number}"} for number in range(2)]
    both = [start("-c", code, said=said, PAUSE="0.05") for said in files]
    assert [*map(ended, both)] == [0, 0]
    paths, said = ([each[number].read_text() for each in files] for number in (1, 2))
    assert len(set(paths)) == 1
    assert sum("compiling the C++ kernels" in text for text in said) == 1
    assert sum("waiting for another process" in text for text in said) <= 1
    assert runs(fake_compiler) == len(build.units(build.source_folder())) + 1


@pytest.mark.parametrize("cxx", ["nowhere++", None])
def test_a_library_built_ahead_needs_no_compiler(
    cxx: str | None, fake_compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = build.library()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    if cxx is None:
        monkeypatch.delenv("CXX")
    else:
        monkeypatch.setenv("CXX", cxx)
    assert build.library() == ahead
    # Nor does it matter where torch is installed, which the compiler is told.
    monkeypatch.setattr("torch.utils.cpp_extension.include_paths", lambda: ["/elsewhere"])
    assert build.library() == ahead


def test_a_compiler_may_have_arguments(fake_compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\necho "launched with $1" >> "$LOG"\nshift\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CXX", f"{launcher} --quick '{os.environ['CXX']}'")
    build.library()
    lines = fake_compiler.read_text().splitlines()
    assert set(lines) == {"launched with --quick", "run"}
    assert lines.count("run") == lines.count("launched with --quick")
    monkeypatch.setenv("CXX", "'not closed")
    with pytest.raises(BuildError, match="CXX='not closed is not a program"):
        build.library(force=True)


def test_a_damaged_library_is_built_anew(fake_compiler: Path, library: None, warm: None) -> None:
    # The pretended compiler copies the real library; a process that has not loaded it yet needs it.
    real = next(path for path in torch.ops.loaded_libraries if path.endswith(build.LIBRARY))
    Path(os.environ["CXX"]).write_text(COMPILER.replace("echo built >", f"cp '{real}'"))
    damaged = build.library()
    damaged.write_text("not a library")
    code = "from kblam_kernels.common import native; print(native.unavailable())"
    assert run("-c", code).stdout == "None\n"
    assert damaged.read_bytes() == Path(real).read_bytes()


def test_a_library_that_never_loads_is_built_anew_once(
    fake_compiler: Path, fresh_load: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build.library()
    first = runs(fake_compiler)
    reason = native.unavailable()
    assert reason is not None
    assert f"{path} cannot be loaded" in reason
    assert runs(fake_compiler) == 2 * first
    native._load.cache_clear()  # the next process
    again = native.unavailable()
    assert again is not None
    assert f"remove {path.parent}" in again
    assert runs(fake_compiler) == 2 * first
    native._load.cache_clear()
    path.write_text("damaged later")
    monkeypatch.setenv("CXX", "nowhere++")
    without = native.unavailable()
    assert without is not None
    assert "is damaged: it is not what was built, nor can it be built anew: no C++ compiler: CXX=nowhere++" in without


# In another process: what is cut, to how many bytes in turn.
LOAD_CUT = """
import os, sys
from kblam_kernels.common import native
for size in map(int, sys.argv[2:]):
    os.truncate(sys.argv[1], size)
    native._load.cache_clear()
    print(native.unavailable())
"""


def test_a_library_that_was_cut_short_is_never_loaded(
    fake_compiler: Path, library: None, monkeypatch: pytest.MonkeyPatch, warm: None
) -> None:
    """Loading one ends the process with SIGBUS, every time."""
    real = next(path for path in torch.ops.loaded_libraries if path.endswith(build.LIBRARY))
    Path(os.environ["CXX"]).write_text(COMPILER.replace("echo built >", f"cp '{real}'"))
    cut = build.library()
    sizes = [cut.stat().st_size // 2, 4096, 100, 0]
    monkeypatch.setenv("CXX", "nowhere++")
    said = run("-c", LOAD_CUT, cut, *sizes)
    assert said.stdout.count("is damaged: it is not what was built") == len(sizes), said.stderr


@pytest.mark.parametrize("how", ["link", "folder-link", "no-checksum", "by-anybody", "folder-by-anybody", "of-another"])
def test_a_library_that_another_user_may_have_put_there_is_not_loaded(
    how: str, fake_compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build.library()
    first = runs(fake_compiler)
    folder = path.parent
    if how == "link":
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
    elif how == "folder-link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif how == "no-checksum":
        (folder / build.CHECKSUM).unlink()
    elif how == "by-anybody":
        path.chmod(0o777)
    elif how == "folder-by-anybody":
        folder.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
    else:
        pytest.skip("only root can give a folder away")
    if "folder" in how or how == "of-another":
        with pytest.raises(BuildError, match="belongs to another user or can be written by anybody; set KBLAM_CACHE"):
            build.library()
        assert runs(fake_compiler) == first
    else:
        assert build.library() == path
        assert runs(fake_compiler) == 2 * first
        assert path.read_text() == "built\n"
        assert not path.is_symlink()


def test_what_a_killed_builder_left_is_removed(fake_compiler: Path) -> None:
    path = build.library()
    (path.parent / f"{build._SCRATCH}x").mkdir()
    build.library(force=True)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [build.LIBRARY, build.CHECKSUM, "lock"]


def test_a_tilde_in_a_variable_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(build.CACHE_VARIABLE, "~/cache")
    assert build.cache_root() == tmp_path / "cache"
    monkeypatch.delenv(build.CACHE_VARIABLE)
    for shared, expected in (("~/x", "x"), ("x", ".cache"), ("", ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        assert build.cache_root() == tmp_path / expected / "kblam_kernels"
    (tmp_path / "c++").write_text(COMPILER)
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("CXX", "~/c++ -v")
    assert build.compiler() == [str(tmp_path / "c++"), "-v"]


def test_a_compiler_may_be_given_from_here(fake_compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is run in another folder."""
    monkeypatch.chdir(fake_compiler.parent)
    monkeypatch.setenv("CXX", "./fake c++")
    assert build.library().read_text() == "built\n"


def test_a_compiler_that_cannot_be_started_is_named(fake_compiler: Path) -> None:
    script = fake_compiler.with_name("fake c++")
    script.write_text("#!/no/such/interpreter\n")
    with pytest.raises(BuildError, match=f"the compiler {re.escape(str(script))} cannot be started: .*; set CXX to"):
        build.library()


@pytest.mark.parametrize("missing", ["fcntl", "torch.utils.cpp_extension"])
def test_what_a_system_lacks_turns_the_kernels_off(missing: str, fake_compiler: Path) -> None:
    """fcntl on Windows; setuptools, which torch's extensions need, in new environments."""
    code = f"""
import sys
sys.modules[{missing!r}] = None
import torch
from kblam_kernels import DenseKnowledge, explain, rectangular_attention
query = torch.randn(1, 4, 3, 64)
rectangular_attention(query, query, query, DenseKnowledge(torch.randn(4, 5, 64), torch.randn(4, 5, 64)))
print(explain(query, query, query).rejected["cpu"])
"""
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert missing.split(".")[-1] in said.stdout


def test_a_user_without_a_home_gets_the_reference_and_the_reason(
    fake_compiler: Path, fresh_load: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(build.CACHE_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.Path, "home", nobody)
    explanation = explain(CALL.query, CALL.key, CALL.value)
    assert explanation.backend == "reference"
    assert "home directory. set KBLAM_CACHE to a writable folder" in explanation.rejected["cpu"]


@pytest.mark.parametrize("what", ["torch", "flags", "sources"])
def test_another_input_is_another_library(
    what: str, fake_compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build.library()
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    elif what == "flags":
        monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-g"))
    else:
        copy = tmp_path / "sources"
        subprocess.run(["cp", "-rL", str(build.source_folder()), str(copy)], check=True)
        header = copy / "isa" / "types.h"
        header.write_text(header.read_text() + "\n")
        monkeypatch.setattr(build, "source_folder", lambda: copy)
    assert build.library() != before
