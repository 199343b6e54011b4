"""What compiles on other processors: nothing of x86 outside the files that are for it."""

from __future__ import annotations

import re
import subprocess

import pytest

from kblam_kernels import build
from kblam_kernels.errors import BuildError

X86 = re.compile(r"\basm\b|\b_mm\w*|\w*intrin\.h|\b__m(?:128|256|512)\w*|\b__builtin_ia32\w*")


def test_intrinsics_are_in_their_files_only() -> None:
    folder = build.source_folder()
    sources = [path for path in folder.rglob("*") if path.suffix in (".cpp", ".h", ".inl")]
    with_intrinsics = {path.name for path in sources if X86.search(path.read_text())}
    assert with_intrinsics == {"simd_avx2.h", "simd_avx512.h", "simd_amx.h"}
    including = {path.name for path in sources if re.search(r'"(kblam/)?simd_a[vm]x', path.read_text())}
    assert including == set(build._X86_FILES) | {"simd_amx.h"}


def test_all_else_compiles_for_a_processor_that_is_not_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        cxx = build.compiler()
    except BuildError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    folder = build.source_folder()
    units = build.kernel_units(folder)
    assert {unit.source.name for unit in units} == {path.name for path in folder.glob("*.cpp")} - {
        *build._X86_FILES,
        *build._BINDINGS,
    }
    for unit in units:
        assert unit.flags == ()  # nothing of x86 switched on
        command = [*cxx, *build._FLAGS, "-Werror", "-fsyntax-only", f"-I{folder / 'include'}", *unit.flags]
        done = subprocess.run([*command, str(unit.source)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
