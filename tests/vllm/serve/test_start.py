"""What vLLM cannot be started with is told before it starts, or as what it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kblam import KnowledgeAdapter, KnowledgeBase, Triple
from kblam.errors import EncoderMismatchError, EngineDiedError, EngineError, ServingError
from kblam.serve.bases import Base, Bases, Place
from kblam.serve.vllm import options
from kblam.serve.vllm.llm import WatchedLLM
from kblam.serve.vllm.start import Setup, started
from kblam.shipped import DEMO
from tests.fakes import HashingEncoder

SETUP = Setup("tiny", str(DEMO / "model"), str(DEMO / "adapter"), dtype="float32")


def start(setup: Setup, paths: dict[str, Path]) -> None:
    """Starts it, and ends it at once."""
    opened = [Base(Place(None, name, path), KnowledgeBase.open(path)) for name, path in paths.items()]
    try:
        start_with(setup, opened)
    finally:
        for base in opened:
            base.knowledge_base.close()


def start_with(setup: Setup, opened: list[Base]) -> None:
    async def once() -> None:
        async with started(setup, Bases(opened)):
            pass

    asyncio.run(once())


def test_a_pool_that_is_too_small_is_refused_at_the_start(bases: dict[str, Path]) -> None:
    with pytest.raises(ServingError, match="--capacity 100 rows are too few: the bases take 256"):
        start(replace(SETUP, capacity=100), bases)


def test_a_base_of_another_encoder_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    encoder = HashingEncoder(384)
    with KnowledgeBase.create(tmp_path / "other.kb", encoder) as base:
        base.add(Triple("a", "b", "c"))
    opened = Base(Place(None, "other", None), KnowledgeBase.open(tmp_path / "other.kb", encoder))
    with opened.knowledge_base, pytest.raises(EncoderMismatchError):
        start_with(SETUP, [opened])


def test_an_adapter_of_another_model_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = KnowledgeAdapter.from_pretrained(DEMO / "adapter")
    adapter.config = replace(adapter.config, num_layers=adapter.config.num_layers + 1)
    adapter.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="the adapter was made for num_layers=5, this model has 4"):
        start(replace(SETUP, adapter=str(tmp_path)), bases)


@pytest.mark.parametrize(
    ("passed", "error", "word"),
    [
        ("no-such-option=1", ServingError, "unrecognized arguments: --no-such-option=1"),
        ("max-model-len=lots", ServingError, "max-model-len"),
        ("enable-auto-tool-choice", ServingError, "tool-call-parser"),
        ("pipeline-parallel-size=2", EngineError, "pipeline parallelism"),
        ("max-model-len=100000", ServingError, "vLLM cannot serve this"),
    ],
)
def test_an_option_that_cannot_be_is_told(
    passed: str, error: type[Exception], word: str, bases: dict[str, Path]
) -> None:
    with pytest.raises(error, match=word):
        start(replace(SETUP, passed=(passed,)), bases)


def test_a_vllm_that_does_not_start_is_told(bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Engine core initialization failed")

    monkeypatch.setattr(WatchedLLM, "from_vllm_config", fail)
    with pytest.raises(EngineDiedError, match="vLLM did not start: Engine core initialization failed"):
        start(SETUP, bases)


def test_every_option_that_is_refused_is_one_of_vllm_s() -> None:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = options.cli_args().make_arg_parser(FlexibleArgumentParser())
    known = {word.lstrip("-") for action in parser._actions for word in action.option_strings} | {"model-tag"}
    assert not [name for name in options._REFUSED if name not in known]
    for beginning in options._REFUSED_BEGINNINGS:
        assert any(name.startswith(beginning) for name in known), beginning
