"""Builds the C++ kernels of `csrc/` into a cache, on first use or ahead: `python -m kblam_kernels build`.

Nothing is built at import. A library in the cache is loaded only if it is ours or root's, no link, and as it was built:
its SHA-256 lies beside it. What users may set, and why a cache can be shared: docs/environment.md and docs/cpu.md.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from kblam_kernels.errors import BuildError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("kblam_kernels")

CACHE_VARIABLE = "KBLAM_CACHE"
LIBRARY = "kblam_kernels_cpu.so"
CHECKSUM = f"{LIBRARY}.sha256"
_SCRATCH = "building-"
# Seconds between two lines about a build that goes on.
_TELL_EVERY = 10.0

# The binding uses torch's stable ABI of this release: one library serves it and every later one.
_TORCH_TARGET = "0x020b000000000000ULL"
# No -march=native and no -ffast-math: each file asks for its own instructions, and NaN must stay NaN.
LANGUAGE = "-std=c++20"
_FLAGS = (LANGUAGE, "-O3", "-fno-math-errno", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-maybe-uninitialized")
# Products that must be rounded once are written as fma. Otherwise compilers fuse products and sums depending on
# inlining, and bits would change.
_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-ffp-contract=off")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_X86_FILES = {
    "isa/kernels_avx2.cpp": _AVX2,
    "isa/kernels_avx512.cpp": _AVX512,
    "isa/kernels_avx512vnni.cpp": (*_AVX512, "-mavx512vnni"),
    "isa/kernels_avx512bf16.cpp": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
    "isa/kernels_amx.cpp": (*_AVX512, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
}


@dataclass(frozen=True)
class Unit:
    """One source file and the flags it is compiled with."""

    source: Path
    flags: tuple[str, ...]

    @property
    def object(self) -> str:
        """The object file it is compiled to."""
        return f"{self.source.parent.name}_{self.source.stem}.o"


def source_folder() -> Path:
    """Where the C++ sources are: inside the installed package, or beside it in a checkout.

    Raises:
        BuildError: if neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "binding").is_dir():
            return folder
    raise BuildError(f"the C++ sources are not installed: no csrc/binding in {package} or beside it")


def program(words: str) -> list[str] | None:
    """A command and its arguments with the command's full path; None if there is no such program.

    The whole text may also be one path, even with spaces in it.
    """
    try:
        candidates = [[words], shlex.split(words)]
    except ValueError:  # unclosed quotes
        candidates = [[words]]
    for command in candidates:
        path = shutil.which(os.path.expanduser(command[0])) if command else None  # noqa: PTH111 - a name stays one
        if path is not None:
            return [str(Path(path).absolute()), *command[1:]]  # it is run in another folder
    return None


def compiler() -> list[str]:
    """The C++ compiler as the words of a command: $CXX may hold arguments, as in "ccache g++".

    Raises:
        BuildError: if there is none.
    """
    named = os.environ.get("CXX", "").strip()
    for candidate in [named] if named else ["c++", "g++", "clang++"]:
        found = program(candidate)
        if found is not None:
            return found
    raise BuildError(f"no C++ compiler: {f'CXX={named} is not a program' if named else 'install g++ or clang++'}")


def kernel_units(folder: Path) -> list[Unit]:
    """Everything but the bindings: needs no torch."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    base = ("-DKBLAM_X86",) if x86 else ()
    units = [Unit(path, base) for path in (folder / "isa/kernels_portable.cpp", *sorted(folder.glob("launch/*.cpp")))]
    return units + [Unit(folder / name, (*base, *flags)) for name, flags in _X86_FILES.items() if x86]


def units(folder: Path) -> list[Unit]:
    """All source files of the library."""
    flags = (f"-DTORCH_TARGET_VERSION={_TORCH_TARGET}",)
    return [*kernel_units(folder), *(Unit(path, flags) for path in sorted(folder.glob("binding/*.cpp")))]


def cache_root() -> Path:
    """The folder of what is made once on this machine.

    Raises:
        BuildError: there is no home folder to have it in.
    """
    try:
        # A shell writes the home folder for ~; a file of variables does not.
        if named := os.environ.get(CACHE_VARIABLE):
            return Path(named).expanduser().absolute()
        shared = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
        # The specification of these variables has relative paths ignored.
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "kblam_kernels"
    except RuntimeError as error:
        raise BuildError(f"no folder for the build cache: {error} set {CACHE_VARIABLE} to a writable folder") from error


def _key(folder: Path, parts: list[Unit]) -> str:
    """Hash of everything that changes the library: sources, flags, torch, machine.

    Paths and compilers are left out, because a library may be built on another machine.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    flags = [" ".join(unit.flags) for unit in parts]
    for text in (torch.__version__, platform.machine(), *_FLAGS, *flags):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One builder at a time; the lock ends with the process, so a killed builder leaves nothing behind.

    Raises:
        BuildError: this system has no such locks.
    """
    if fcntl is None:
        raise BuildError("the C++ kernels are built under a POSIX file lock, and this Python has no fcntl")
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell("waiting for another process that compiles the C++ kernels")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _run(command: list[str], folder: Path) -> None:
    # The compiler output is searched for the error, so it must be in English.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        raise BuildError(f"the compiler {command[0]} cannot be started: {error}; set CXX to one that can") from error
    if done.returncode:
        output = (done.stdout + done.stderr).strip()
        raise BuildError(
            f"the compiler failed: {_reason(output) or f'status {done.returncode}'}\n"
            f"{shlex.join(command)} failed with status {done.returncode}:\n{output[-4000:]}"
        )


def _reason(output: str) -> str:
    """The most useful line: the first error, or else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]
    return (errors[:1] or lines[-1:] or [""])[0][:300]


def _compile(cxx: list[str], parts: list[Unit], folder: Path, include: Path) -> Path:
    from torch.utils.cpp_extension import include_paths

    common = [*cxx, *_FLAGS, f"-I{include}", *(f"-isystem{path}" for path in include_paths())]
    compiles = [(unit.object, [*common, *unit.flags, "-c", str(unit.source), "-o", unit.object]) for unit in parts]
    library_folder = Path(torch.__file__).parent / "lib"
    torch_libraries = [f"-L{library_folder}", "-ltorch_cpu", "-lc10"]
    link = [*cxx, "-shared", *(target for target, _ in compiles), *torch_libraries, "-o", LIBRARY]
    began = told = time.monotonic()
    files = f"{len(compiles)} file{'' if len(compiles) == 1 else 's'}"
    _tell(f"compiling the C++ kernels, once for this machine: {files} with {cxx[0]}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = [pool.submit(_run, command, folder) for _, command in compiles]
        for done, _ in enumerate(as_completed(outcomes), 1):
            if time.monotonic() - told >= _TELL_EVERY and done < len(compiles):
                told = time.monotonic()
                _tell(f"{done} of {len(compiles)} files compiled after {told - began:.0f} s")
        for outcome in outcomes:
            outcome.result()
    _run(link, folder)
    _tell(f"compiled the C++ kernels in {time.monotonic() - began:.0f} s")
    return folder / LIBRARY


def _tell(line: str) -> None:
    """A warning, since the caller waits for a minute and would not know for what; `note` says that nothing is wrong."""
    logger.warning(line, extra={"note": True})


def library(*, force: bool = False) -> Path:
    """The built library, built now if the cache has none for these sources, flags and torch, or a damaged one.

    Processes that ask at the same time wait for one of them to build it; the library appears by an atomic rename. What
    takes a minute is told to the logger "kblam_kernels".

    Raises:
        BuildError: no compiler, no sources, a compilation that fails, or a cache that cannot be written or trusted.
    """
    folder = source_folder()
    parts = units(folder)
    home = cache_root() / _key(folder, parts)
    target = home / LIBRARY
    trouble = _trouble(target)
    if trouble is None and not force:
        return target
    try:
        cxx = compiler()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(home)
        with _locked(home / "lock"):
            if _trouble(target) is None and not force:
                return target
            for left in home.glob(f"{_SCRATCH}*"):  # of a builder that was killed: no other holds the lock
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=home, prefix=_SCRATCH) as scratch:
                built = _compile(cxx, parts, Path(scratch), folder)
                # Before the library: whoever is killed in between leaves one that does not fit its checksum.
                noted = Path(scratch) / CHECKSUM
                noted.write_text(_sha256(built), encoding="ascii")
                noted.replace(home / CHECKSUM)
                built.replace(target)
    except OSError as error:
        raise BuildError(
            f"cannot write the build cache {home}: {error}; set {CACHE_VARIABLE} to a writable folder"
        ) from error
    except BuildError as error:
        if target.exists() and trouble is not None:
            raise BuildError(f"{target} {trouble}, nor can it be built anew: {error}") from error
        raise
    return target


def _trouble(path: Path) -> str | None:
    """Why a library must not be loaded; None if it may. A library cut short would end the process."""
    try:
        if path.parent.is_symlink() or path.is_symlink():
            return "is a link"
        _check_owner(path.parent)
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return "is not a file"
        if not is_ours(found):
            return "belongs to another user or can be written by anybody"
        if path.with_name(CHECKSUM).read_text(encoding="ascii") != _sha256(path):
            return "is damaged: it is not what was built"
    except BuildError:
        return "lies in a folder of another user"
    except (OSError, ValueError) as error:
        return f"cannot be checked: {error}"
    return None


def _check_owner(folder: Path) -> None:
    """Refuses a folder in which another user can put a library for this process to run."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or not is_ours(found):
        raise BuildError(
            f"the build cache {folder} is a link, belongs to another user or can be written by anybody; set "
            f"{CACHE_VARIABLE} to a folder of your own"
        )


def is_ours(found: os.stat_result) -> bool:
    """Whether a file is this user's or root's, and not everybody's to write."""
    if not hasattr(os, "geteuid"):
        return True
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & stat.S_IWOTH


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rebuilt(path: Path) -> Path:
    """The library built once more, after the one at `path` could not be loaded: damaged, or made on another system.

    If the rebuilt library does not load either, a note beside it stops later processes from building again.

    Raises:
        BuildError: as `library`, or if an earlier call already rebuilt the library at `path`.
    """
    note, checksum = path.with_name("rebuilt"), path.with_name(CHECKSUM)
    if note.is_file() and note.read_bytes() == checksum.read_bytes():
        raise BuildError(f"it was built anew already; remove {path.parent} to try once more")
    path = library(force=True)
    shutil.copyfile(checksum, note)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Builds and prints the path; exits 1 with the reason if it cannot."""
    parser = argparse.ArgumentParser(prog="python -m kblam_kernels build", description="Build the C++ CPU kernels.")
    parser.add_argument("--force", action="store_true", help="build again even if the cache has the library")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        path = library(force=options.force)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path} ({time.perf_counter() - start:.1f} s)")
    return 0
