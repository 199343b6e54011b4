"""The front end and the scheduler take the same part of a long text for its question as a session does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam.generation.decision import rules_of
from kblam.vllm import admission, deciding
from kblam.vllm.files import BaseNames
from kblam.vllm.registry import Loaded
from tests.generation.asking import Asked
from tests.generation.test_long_question import LONG, short  # noqa: F401  # a fixture
from tests.generation.test_pointer import CURRENCY


def front_end(asked: Asked, rules: Any) -> Any:
    front = admission.FrontEnd.__new__(admission.FrontEnd)
    front.adapter, front._kept = asked.attachment.config, {}
    front._lock, front._encoding = _Lock(), _Lock()
    loaded, names = Loaded(1, 1, 5, "facts.kb", "0.1", asked.encoder.fingerprint), BaseNames(asked.kb)
    front._encoder = loaded.encoder, asked.encoder
    stubs: Any = {"check": lambda *_: loaded, "rules": lambda _: rules, "_names_of": lambda _: names}
    for name, stub in stubs.items():
        setattr(front, name, stub)
    return front


class _Lock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def scheduler(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> deciding.Decider:
    decider = deciding.Decider.__new__(deciding.Decider)
    decider.asked = deciding.HowAsked(asked.attachment.config, asked.attachment.family)
    decider._encoder, decider._judges, decider._ends = asked.encoder, SimpleNamespace(of=lambda _: None), [1]  # type: ignore[assignment]
    monkeypatch.setattr(decider, "know", lambda _: None)
    return decider


@pytest.mark.parametrize("is_decided", [True, False])
@pytest.mark.parametrize("text", [CURRENCY, *LONG], ids=["short", "behind", "before", "between"])
def test_all_three_encode_the_same(
    text: str,
    is_decided: bool,
    short: Asked,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = rules_of(short.attachment.config, "refuse")
    params = SimpleNamespace(n=1, extra_args={"kblam_kb": "base", "kblam_question": text})
    front_end(short, rules if is_decided else None).admit(params)
    wanted = short.session().question_vectors([text])
    assert torch.tensor([params.extra_args[admission.VECTOR]]).equal(wanted)
    if is_decided:
        sampling = SimpleNamespace(stop_token_ids=(), eos_token_id=1)
        decider = scheduler(short, monkeypatch)
        question = decider.question(text, [1], sampling, object(), rules, params.extra_args[admission.VECTORS])  # type: ignore[arg-type]
        assert question.text in params.extra_args[admission.VECTORS]
        assert torch.tensor([decider.vector_of(question, question.text)]).equal(wanted)
