"""Engines of the small model, one at a time, and the same asked of `attach` on transformers."""

from __future__ import annotations

import contextlib
import functools
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM, SamplingParams

from kblam import KnowledgeAdapter, KnowledgeBase, Triple, attach
from kblam.demo.tiny.evaluate import quizzes
from kblam.demo.tiny.tokenizer import real_words
from kblam.demo.tiny.world import build_world
from kblam.generation.evidence import EvidenceRecorder
from kblam.knowledge import load_encoder
from kblam.models.loading import load_base, load_tokenizer
from kblam.shipped import DEMO
from kblam.vllm import architecture_of

MODEL, ADAPTER = DEMO / "model", DEMO / "adapter"
TRIPLES = 150
TOKENS = 16
# In the order of log-probabilities of float32; measured 1e-6.
TOLERANCE = 1e-4

# A beginning of prompts: more than two blocks of 32 tokens.
LONG = "what is the color of the quiet mountain near berlin and the sound of loud bells behind old bridges ? " * 4

_running: list[LLM] = []


@functools.cache
def facts() -> list[Triple]:
    """Of the small world, enough for three bases."""
    return [Triple(*fact) for fact in quizzes(build_world(real_words()), 1000, 1)[0].facts][: 3 * TRIPLES]


@functools.cache
def tokenizer() -> Any:
    """Of the small model."""
    return load_tokenizer(MODEL)


def of_base(name: str) -> list[Triple]:
    """What a base of `write_bases` says."""
    start = {"facts": 0, "hr": TRIPLES, "spare": 2 * TRIPLES}[name]
    return facts()[start : start + TRIPLES]


def write_bases(folder: Path) -> dict[str, Path]:
    """Files of two bases, and of a third that no engine starts with."""
    paths = {name: folder / f"{name}.kb" for name in ("facts", "hr", "spare")}
    encoder = load_encoder("minilm")
    for name, path in paths.items():
        with KnowledgeBase.create(path, encoder) as base:
            base.add(of_base(name))
    return paths


def settings(bases: dict[str, Path], **others: Any) -> dict[str, Any]:
    """`additional_config` with the first two bases."""
    knowledge = {name: str(bases[name]) for name in ("facts", "hr")}
    return {"kblam": {"adapter": str(ADAPTER), "knowledge": knowledge} | others}


def start(additional_config: dict[str, Any], **options: Any) -> LLM:
    """An engine; the one before it is stopped."""
    stop()
    _running.append(LLM(**{**options_of(additional_config), **options}))
    return _running[-1]


def options_of(additional_config: dict[str, Any]) -> dict[str, Any]:
    """Of an engine of the small model."""
    return {
        "model": str(MODEL),
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": 32,
        "max_model_len": 192,
        "max_num_seqs": 8,
        "disable_log_stats": True,
        "hf_overrides": {"architectures": [architecture_of("LlamaForCausalLM")]},
        "additional_config": additional_config,
    }


def stop() -> None:
    """Stops the engine that runs, if one does."""
    while _running:
        _running.pop().llm_engine.engine_core.shutdown()
        gc.collect()


@dataclass(frozen=True)
class Request:
    """A question to a base; None asks the model alone.

    Args:
        question: its text.
        base: name of the base.
        before: text in the prompt in front of it.
    """

    question: str
    base: str | None
    before: str = ""

    @property
    def ids(self) -> list[int]:
        """The prompt."""
        found: list[int] = tokenizer().encode(f"[BOS]{self.before}{self.question}[SEP]", add_special_tokens=False)
        return found

    @property
    def prompt(self) -> dict[str, Any]:
        """As vLLM takes it."""
        return {"prompt_token_ids": self.ids}

    def params(self, **options: Any) -> SamplingParams:
        """Greedy, unless told otherwise."""
        extra = options.pop("extra", {}) | ({} if self.base is None else {"kblam_kb": self.base})
        given = {"temperature": 0, "max_tokens": TOKENS, "logprobs": 1, "min_tokens": TOKENS, **options}
        return SamplingParams(**given, extra_args=extra)


def question_about(triple: Triple) -> str:
    """In the small model's words."""
    return f"What is the {triple.property} of {triple.name}?"


def requests(count: int = 3, *, before: str = "") -> list[Request]:
    """`count` to each base, and two to none, in turn."""
    rows = [Request(question_about(of_base(name)[at]), name, before) for at in range(count) for name in ("facts", "hr")]
    return [*rows, *(Request(row.question, None, before) for row in rows[:2])]


@dataclass(frozen=True)
class Said:
    """What was said to a request."""

    tokens: list[int]
    logprobs: list[float]
    best: tuple[int | str, float] | None = None


class Reference:
    """`attach` on transformers: the same model, adapter and bases."""

    def __init__(
        self, bases: dict[str, Path], adapter: KnowledgeAdapter | None = None, *, model: Path = MODEL, **options: Any
    ) -> None:
        self.model = load_base(model, dtype=torch.float32, device="cpu")
        self.attachment = attach(self.model, adapter or KnowledgeAdapter.from_pretrained(ADAPTER), **options)
        self.bases = {name: KnowledgeBase.open(path) for name, path in bases.items()}

    def say(self, request: Request, tokens: int = TOKENS) -> Said:
        """Greedily."""
        recorder = EvidenceRecorder()
        with contextlib.ExitStack() as block:
            if request.base is not None:
                question = request.question if self.attachment.config.question_head else None
                block.enter_context(self.attachment.using(self.bases[request.base], question=question))
                block.enter_context(self.attachment.observing(recorder))
            block.enter_context(torch.inference_mode())
            ids = torch.tensor([request.ids])
            made: Any = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        said = made.sequences[0, ids.shape[1] :].tolist()
        scores = [step[0].log_softmax(-1)[token].item() for step, token in zip(made.logits, said, strict=True)]
        return Said(said, scores, recorder.best(0, tokens, 1)[0] if request.base is not None else None)


def said_by(output: Any) -> Said:
    """A response of vLLM."""
    (one,) = output.outputs
    scores = [step[token].logprob for step, token in zip(one.logprobs or [], one.token_ids, strict=False)]
    evidence = knowledge_of(output).get("evidence") or [None]
    best = None if evidence[0] is None else (evidence[0]["value"], evidence[0]["mass"])
    return Said(list(one.token_ids), scores, best)


def knowledge_of(output: Any) -> dict[str, Any]:
    """What a response says of its knowledge."""
    found: dict[str, Any] = (output.kv_transfer_params or {}).get("kblam", {})
    return found


def assert_rests_alike(together: Any, alone: list[Any]) -> None:
    """Each of several answers to one request says what it rests on, as requests of their own do."""
    samples = knowledge_of(together)["samples"]
    assert len(samples) == len(alone)
    for found, output in zip(samples, alone, strict=True):
        expected = dict(knowledge_of(output))
        masses = [{one["value"]: one["mass"] for one in each["evidence"]} for each in (found, expected)]
        assert masses[0] == pytest.approx(masses[1], abs=TOLERANCE)  # the batch is another
        assert found.get("confidence") == pytest.approx(expected.get("confidence"), abs=TOLERANCE)
        for one in (found, expected):
            for differs in ("evidence", "confidence"):
                one.pop(differs, None)
        assert found == expected


def ask(engine: LLM, rows: list[Request], **options: Any) -> list[Any]:
    """Outputs of requests that run together."""
    outputs: list[Any] = engine.generate(
        [row.prompt for row in rows], [row.params(**options) for row in rows], use_tqdm=False
    )
    return outputs


def assert_alike(found: list[Said], expected: list[Said]) -> None:
    """The same tokens, with the same log-probabilities."""
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=TOLERANCE)
