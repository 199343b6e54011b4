"""What a bare import costs, and the tables that must not fall behind the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import kblam
import kblam_kernels

ROOT = Path(__file__).parent.parent
READ = (
    re.compile(r"""(?:environ(?:\.get\(|\.setdefault\(|\.pop\(|\[)|getenv\()\s*["']([A-Z][A-Z0-9_]*)["']"""),
    # A name of ours in quotes is a variable, however it is read.
    re.compile(r"""["'](KBLAM_[A-Z0-9_]+)["']"""),
)
SOURCES = ("kblam_kernels", "kblam", "csrc", "benchmarks", "tests")
# What a variable looks like. In a module that touches the environment every such string is taken for one: names also
# stand in tuples, in dictionaries and in calls of what was given the environment.
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
TOUCHES = re.compile(r"\benviron\b|\bgetenv\b")
# Set for programs that are started, and the part of a name.
NOT_READ = {"LC_ALL", "PYTORCH_NO_CUDA_MEMORY_CACHING", "CPU_ISA"}


def python(code: str, **environment: str) -> str:
    """Runs code in a process of its own, without a GPU; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kernels_import_torch_and_nothing_heavier() -> None:
    loaded = python("import sys, kblam_kernels; print(*sys.modules)").split()
    assert "torch" in loaded
    # transformers and triton cost seconds, and need not be there.
    assert not {"transformers", "triton", "kblam", "sentence_transformers", "huggingface_hub"} & set(loaded)


def test_the_kernels_work_without_triton() -> None:
    said = python(
        "import sys\n"
        "sys.modules['triton'] = None\n"  # an import of it now fails as if it were not installed
        "import torch, kblam_kernels as k\n"
        "q = torch.randn(1, 2, 3, 8)\n"
        "print(tuple(k.rectangular_attention(q, q, q, k.DenseKnowledge(q[0], q[0])).shape))\n"
        "print(k.explain(q, q, q).rejected['triton'])\n"
        "try: k.rectangular_attention(q, q, q, backend='triton')\n"
        "except k.BackendUnavailableError as error: print(error)\n",
        KBLAM_BACKEND="",
    ).splitlines()
    assert said[0] == "(1, 2, 3, 8)"
    assert said[1].startswith("triton is not installed")
    assert "triton is not installed (pip install" in said[2]


def packages() -> Iterator[ModuleType]:
    for package in (kblam_kernels, kblam):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.ispkg:
                yield importlib.import_module(found.name)


def test_every_public_name_has_a_contract() -> None:
    silent = []
    for module in packages():
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            text = value.__doc__ or ""
            # A dataclass without a docstring gets its signature as one.
            if not text or text.startswith(f"{name}("):
                silent.append(f"{module.__name__}.{name}")
    assert not silent


def test_every_public_name_exists() -> None:
    missing = [
        f"{module.__name__}.{name}"
        for module in packages()
        for name in getattr(module, "__all__", ())
        if not hasattr(module, name)
    ]
    assert not missing


def variables_of(path: Path) -> set[str]:
    """Names of the environment variables that a source file reads."""
    text = path.read_text("utf-8")
    found = {name for pattern in READ for name in pattern.findall(text)}
    if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests" and TOUCHES.search(text):
        strings = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        found |= {value for value in strings if isinstance(value, str) and VARIABLE.fullmatch(value)}
    return found - NOT_READ


def variables_in_the_sources() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".cpp", ".h"} and path != Path(__file__):
                found = dict.fromkeys(variables_of(path), path) | found
    # The tests set more of vLLM's own.
    return {name: path for name, path in found.items() if not (name.startswith("VLLM_") and "tests" in path.parts)}


def variables_in_the_table() -> list[str]:
    text = (ROOT / "docs" / "environment.md").read_text("utf-8")
    cells = re.findall(r"^\| (`[A-Z][^|]*) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([A-Z][A-Z0-9_]*)`", cell)]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("kblam/training/processes.py", {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "FSDP_VERSION"}),
        ("kblam/cli/checks.py", {"HF_TOKEN", "HF_HUB_CACHE", "HTTPS_PROXY"}),
        ("kblam_kernels/tools/env.py", {"CUDA_VISIBLE_DEVICES", "TRITON_CACHE_DIR"}),
        ("benchmarks/gpu_sanitize.py", {"CUDA_HOME"}),
    ],
)
def test_variables_are_found_wherever_their_names_stand(module: str, names: set[str]) -> None:
    assert names <= variables_of(ROOT / module)


def test_every_environment_variable_has_one_row() -> None:
    rows = variables_in_the_table()
    assert len(rows) == len(set(rows))
    unlisted = {name: str(path) for name, path in variables_in_the_sources().items() if name not in rows}
    assert not unlisted, "add a row to docs/environment.md"


def test_every_row_is_a_variable_that_something_reads() -> None:
    tests = ROOT / "tests"
    read = ("golden/files.py", "kernels/tools/test_resources.py", "elsewhere/conftest.py")
    files = [ROOT / "Makefile", *(tests / path for path in read)]
    for folder in SOURCES[:-1]:
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".cpp", ".h"}]
    text = "".join(path.read_text("utf-8") for path in files)
    names = set(re.findall(r"\w+", text))
    assert [name for name in variables_in_the_table() if name not in names] == []


def test_sql_is_spoken_in_one_place() -> None:
    """Who else needs something of a knowledge base file asks `kblam.knowledge`.

    mendeleev has a file of its own, imports and exports a temporary one, and graph databases are asked in Cypher.
    """
    says = re.compile(r"\.execute\(|\bsqlite3\.(connect|Connection)\b")
    elsewhere = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "kblam").rglob("*.py"))
        if path.parts[len(ROOT.parts) + 1] != "knowledge" and says.search(path.read_text("utf-8"))
    ]
    assert elsewhere == [
        "kblam/data/exporting/grouping.py",
        "kblam/data/importing/embedded.py",
        "kblam/data/importing/naming.py",
        "kblam/data/importing/stage.py",
        "kblam/data/real/elements.py",
    ]
