"""Answers that are decided, asked of vLLM and of `ask`."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.vllm_equality import question_texts
from kblam import Answer, Session
from tests.vllm.engine import engines
from tests.vllm.engine.engines import Reference, Request, knowledge_of

LIMIT = 48


def ask(engine: Any, asked: list[tuple[str, str]], *, extra: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    """Outputs for (base, question)s that run together."""
    rows = [Request(question, base) for base, question in asked]
    params = [
        row.params(
            extra={"kblam_question": row.question, **(extra or {})},
            **{"max_tokens": LIMIT, "min_tokens": 0, "logprobs": None, **options},
        )
        for row in rows
    ]
    outputs: list[Any] = engine.generate([row.prompt for row in rows], params, use_tqdm=False)
    return outputs


def expected(reference: Reference, asked: list[tuple[str, str]], unknown: Any = "auto") -> list[Answer]:
    """What `ask` says."""
    made: Any = reference.model
    sessions = {
        name: Session(made, base, tokenizer=engines.tokenizer(), unknown=unknown)
        for name, base in reference.bases.items()
    }
    return [sessions[base].ask(question, max_new_tokens=LIMIT) for base, question in asked]


def every_kind() -> list[tuple[str, str]]:
    return [(base, text) for base in ("facts", "hr") for text in question_texts(engines.of_base(base)[::20])]


def assert_answered(outputs: list[Any], answers: list[Answer]) -> None:
    """What vLLM answers is what `ask` does."""
    for output, answer in zip(outputs, answers, strict=True):
        said, basis = knowledge_of(output), answer.basis()
        assert output.outputs[0].text.strip() == answer.text.lower()
        assert said.get("from_base", False) == answer.from_base
        if not answer.from_base:
            assert said["text"] == answer.text
        assert {key: said[key] for key in ("refused", "known", "copied")} == {
            key: basis[key] for key in ("refused", "known", "copied")
        }
        assert said["confidence"] == pytest.approx(basis["confidence"], abs=1e-5)
        found, wanted = ({one["value"]: one["mass"] for one in each["evidence"]} for each in (said, basis))
        assert found == pytest.approx(wanted, abs=1e-4)
