"""lm-evaluation-harness drives a model with a knowledge base; skipped where it is not installed."""

from __future__ import annotations

import importlib
import sys

import pytest

from kblam import KnowledgeBase, attach
from kblam.errors import EvaluationError
from tests.evaluation.subjects import ENCODER
from tests.generation.tiny import FACTS, make_prefer, make_uniform, tiny_adapter, tiny_model, tiny_tokenizer

REQUESTS = [
    ("what is the capital of", " amber falcon"),
    ("the motto of silver", " pine meadow"),
    ("is quiet", " harbor"),
]


def likelihoods(
    known_above: float | None = None, *, with_knowledge: bool = True, falls_back: bool = True, uniform: bool = False
) -> list[float]:
    """Of three continuations; the mass of the strongest triple is nearly 1, or less than a half if `uniform`."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from kblam.evaluation.harness import KnowledgeLM

    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    adapter = tiny_adapter(model, ENCODER, known_above=known_above)
    if uniform:
        make_uniform(model, adapter)
    else:
        make_prefer(model, adapter, ENCODER, FACTS[0])
    attach(model, adapter)
    with KnowledgeBase.from_triples(FACTS, ENCODER) as kb:
        lm = KnowledgeLM(
            model, tokenizer, kb if with_knowledge else None, falls_back=falls_back, batch_size=2, device="cpu"
        )
        asked = [Instance("loglikelihood", {}, request, 0) for request in REQUESTS]
        until = {"until": ["."], "max_gen_toks": 2}
        said = lm.generate_until([Instance("generate_until", {}, (text, until), 0) for text, _ in REQUESTS[:2]])
        assert len(said) == 2
        return [likelihood for likelihood, _ in lm.loglikelihood(asked)]


def test_knowledge_counts_where_it_is_in_force_and_nowhere_else() -> None:
    alone = likelihoods(with_knowledge=False)
    forced = likelihoods(falls_back=False)
    assert all(abs(one - other) > 1e-3 for one, other in zip(alone, forced, strict=True))
    assert likelihoods(0.5) == pytest.approx(forced, abs=1e-5)


def test_what_is_unknown_is_computed_by_the_base_model() -> None:
    alone = likelihoods(with_knowledge=False, uniform=True)
    assert likelihoods(0.5, uniform=True) == pytest.approx(alone, abs=1e-5)
    assert likelihoods(0.01, uniform=True) != pytest.approx(alone, abs=1e-3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no known_above: pass falls_back=False"):
        likelihoods()


def test_without_the_harness_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    monkeypatch.delitem(sys.modules, "kblam.evaluation.harness", raising=False)
    with pytest.raises(EvaluationError, match=r"pip install 'kblam-kernels\[harness\]'"):
        importlib.import_module("kblam.evaluation.harness")
