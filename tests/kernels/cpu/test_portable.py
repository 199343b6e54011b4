"""What compiles on other processors: nothing of x86 outside the files that are for it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kblam_kernels.common import build
from kblam_kernels.errors import BuildError

X86 = re.compile(r"\basm\b|\b_mm\w*|\w*intrin\.h|\b__m(?:128|256|512)\w*|\b__builtin_ia32\w*")


def name(path: Path) -> str:
    return path.relative_to(build.source_folder()).as_posix()


def test_intrinsics_are_in_their_files_only() -> None:
    folder = build.source_folder()
    sources = [path for path in folder.rglob("*") if path.suffix in (".cpp", ".h", ".inl")]
    with_intrinsics = {name(path) for path in sources if X86.search(path.read_text())}
    vectors = {f"isa/simd_{isa}.h" for isa in ("avx2", "avx512", "avx512vnni", "avx512bf16", "amx")}
    assert with_intrinsics == vectors
    including = {name(path) for path in sources if re.search(r'"(isa/)?simd_a[vm]x', path.read_text())}
    assert including == set(build._X86_FILES) | {f"isa/simd_{isa}.h" for isa in ("avx512vnni", "avx512bf16", "amx")}


def test_instruction_sets_are_told_apart_by_their_traits_not_by_the_preprocessor() -> None:
    folder = build.source_folder()
    lines = {
        name(path): [line for line in path.read_text().splitlines() if re.match(r"\s*#\s*(if|el|define)", line)]
        for path in folder.rglob("*.*")
    }
    assert lines.pop("launch/select.cpp") == ["#ifdef KBLAM_X86", "#else"]
    assert set(lines.pop("isa/simd_amx.h")) == {
        "#ifdef __SANITIZE_ADDRESS__",
        "#ifdef __SANITIZE_ADDRESS__  // which does not see into assembly",
    }
    for path, found in lines.items():
        assert [line for line in found if not line.startswith("#define KBLAM_ISA ")] == [], path


def test_each_room_includes_only_the_rooms_below_it() -> None:
    rooms = ("isa", "kernels", "launch", "binding")
    folder = build.source_folder()
    for path in folder.glob("*/*.*"):
        included = re.findall(r'#include "(\w+)/', path.read_text())
        above = set(rooms[rooms.index(path.parent.name) + 1 :])
        is_table = path.parent.name == "isa" and path.suffix == ".cpp"  # an instruction set and all kernels
        assert is_table or not above & set(included), path
        if path.parent.name != "binding":
            assert "torch" not in path.read_text(), path


def test_all_else_compiles_for_a_processor_that_is_not_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        cxx = build.compiler()
    except BuildError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    folder = build.source_folder()
    units = build.kernel_units(folder)
    rest = {name(path) for path in folder.glob("*/*.cpp") if path.parent.name != "binding"}
    assert {name(unit.source) for unit in units} == rest - set(build._X86_FILES)
    for unit in units:
        assert unit.flags == ()  # nothing of x86 switched on
        command = [*cxx, *build._FLAGS, "-Werror", "-fsyntax-only", f"-I{folder}", *unit.flags]
        done = subprocess.run([*command, str(unit.source)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
