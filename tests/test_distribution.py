"""The source archive and the wheel, built and installed somewhere else: all that the package needs travels with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

from kblam_kernels.common import build

ROOT = Path(__file__).parent.parent
# What setuptools reads; `tests` is left out of a source archive, so its absence changes nothing.
PARTS = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "csrc", "docs", "kblam", "kblam_kernels")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"


def run(*command: object, cwd: Path) -> str:
    hidden = ("PYTHONPATH", "KBLAM_BUILD", "KBLAM_CPU_ISA")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, built from a copy, so that nothing an earlier build left lands in it."""
    folder = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / part, folder / part)
    (folder / "dist").mkdir()
    run(sys.executable, "-c", BUILD.format("sdist"), "dist", cwd=folder)
    return next((folder / "dist").glob("*.tar.gz"))


@pytest.fixture(scope="module")
def python(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has the wheel, made of the archive, and the packages of this one."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    source = next(folder.glob("kblam_kernels-*"))
    run(sys.executable, "-c", BUILD.format("wheel"), folder, cwd=source)
    venv.create(folder / "venv", with_pip=False)
    fresh = folder / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "venv" / "lib" / version / "site-packages"
    # As a plain line of a path: what an editable install of kblam put beside them is not followed.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", fresh, "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, next(folder.glob("*.whl")), cwd=folder)
    shutil.rmtree(source)
    return fresh


def test_the_source_archive_holds_files_and_no_links(archive: Path) -> None:
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
    assert not [one.name for one in members if one.issym() or one.islnk()]
    names = {one.name.partition("/")[2] for one in members}
    assert {"pyproject.toml", "README.md", "LICENSE", "kblam_kernels/csrc/binding/dense.cpp"} <= names
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


CHECK = """
import importlib.metadata, json
import kblam, kblam_kernels
from kblam import KnowledgeAdapter, shipped
from kblam.data.lexicon import lexicon
from kblam.data.phrases import phrases, specific
from kblam.extras import requirements
from kblam_kernels.common import build

folder = build.source_folder()
print(json.dumps({
    "packages": [kblam.__file__, kblam_kernels.__file__],
    "version": importlib.metadata.version("kblam-kernels"),
    "urls": importlib.metadata.metadata("kblam-kernels").get_all("Project-URL"),
    "csrc": str(folder),
    "key": build._key(folder, build.units(folder)),
    "lexicon": len(lexicon().nouns),
    "phrases": [len(phrases("one").seen), len(specific())],
    "shipped": [shipped.smollm2_is_shipped(), shipped.demo_is_shipped()],
    "adapter": KnowledgeAdapter.from_pretrained(shipped.SMOLLM2_ADAPTER).config.pointer,
    "page": sorted(file.name for file in (shipped.DOCS.parent / "serve" / "page").iterdir()),
    "docs": sorted(page.name for page in shipped.DOCS.glob("*.md")),
    "extras": sorted({one.extra for one in requirements() if one.extra}),
    "typed": all((folder / "py.typed").is_file() for folder in (shipped.DOCS.parent, folder.parent)),
}))
"""


@pytest.mark.slow
def test_the_installed_wheel_has_all_that_the_checkout_has(python: Path) -> None:
    found = json.loads(run(python, "-c", CHECK, cwd=python.parent).splitlines()[-1])
    home = str(python.parents[1])
    assert all(file.startswith(home) for file in (*found["packages"], found["csrc"])), found["packages"]
    folder = build.source_folder()
    assert found["key"] == build._key(folder, build.units(folder)), "a C++ source is missing, or another one is there"
    assert found["shipped"] == [True, True]
    assert found["adapter"] is True
    assert min(found["lexicon"], *found["phrases"]) > 10
    assert found["docs"] == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    assert found["page"] == ["index.html", "page.css", "page.js"]
    assert {"kblam", "offline", "smollm2", "serve", "train"} <= set(found["extras"])
    assert found["typed"] is True
    assert all(url.partition(", ")[2].startswith("https://") for url in found["urls"])


@pytest.mark.slow
def test_the_installed_command_runs_and_names_the_installed_guide(python: Path) -> None:
    command = python.parent / "kblam"
    assert run(command, "--version", cwd=python.parent) == "kblam 0.1.0\n"
    shown = re.sub(r"\s", "", run(command, "--help", cwd=python.parent))
    assert str(python.parents[1] / "lib") in shown
    assert "kblam/docs/cli.md" in shown
    assert "build" in run(python, "-m", "kblam_kernels", "--help", cwd=python.parent)


def test_every_guide_that_the_sources_name_is_in_the_package() -> None:
    named = {
        (str(path.relative_to(ROOT)), page)
        for package in ("kblam", "kblam_kernels")
        for path in (ROOT / package).rglob("*.py")
        for page in re.findall(r"docs/([\w/]+\.md)", path.read_text("utf-8"))
    }
    assert len(named) > 5
    assert [one for one in named if not (ROOT / "kblam" / "docs" / one[1]).is_file()] == []
