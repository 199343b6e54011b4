"""lm-evaluation-harness drives a model with a knowledge base; skipped where it is not installed."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kblam import KnowledgeBase, attach
from kblam.errors import EvaluationError
from tests.evaluation.subjects import ENCODER
from tests.generation.tiny import (
    FACTS,
    SPECIALS,
    WORDS,
    make_prefer,
    make_uniform,
    tiny_adapter,
    tiny_model,
    tiny_tokenizer,
)

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


def zero_is_a_word(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Any]:
    """A model whose token 0 is "!", as of Llama 3 and Qwen, driven by the harness; the questions that it is asked."""
    from kblam.evaluation import harness

    vocabulary = {word: place for place, word in enumerate(["!", *SPECIALS, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **named)
    model, texts = tiny_model(tokenizer), list[str]()
    attach(model, tiny_adapter(model, ENCODER))
    in_force = harness.in_force
    monkeypatch.setattr(harness, "in_force", lambda *given: (texts.extend(given[2]), in_force(*given))[1])
    kb = KnowledgeBase.from_triples(FACTS, ENCODER)
    return texts, harness.KnowledgeLM(model, tokenizer, kb, falls_back=False, batch_size=3, device="cpu")


def test_padding_is_no_part_of_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness fills rows with 0, whatever the vocabulary has there."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    texts, lm = zero_is_a_word(monkeypatch)
    with lm._knowledge_base:
        lm.loglikelihood([Instance("loglikelihood", {}, request, 0) for request in REQUESTS])
    assert sorted(texts) == ["is quiet", "the motto of silver pine", "what is the capital of amber"]


def test_a_word_whose_token_is_0_is_part_of_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at its end, where the harness fills rows with 0, and in front of an answer that is generated."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    texts, lm = zero_is_a_word(monkeypatch)
    with lm._knowledge_base:
        endings = [("is quiet !", " harbor"), ("is quiet ! !", " harbor"), ("is quiet", " harbor"), ("is", " harbor")]
        for asked in (endings, list(reversed(endings)), endings[2:], endings[1:2]):
            texts.clear()
            lm.loglikelihood([Instance("loglikelihood", {}, request, 0) for request in asked])
            assert sorted(texts) == sorted(text for text, _ in asked)
        texts.clear()
        until = {"until": ["."], "max_gen_toks": 2}
        lm.generate_until([Instance("generate_until", {}, (text, until), 0) for text, _ in endings])
        assert sorted(texts) == sorted(text for text, _ in endings)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no known_above: pass falls_back=False"):
        likelihoods()


def test_without_the_harness_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    monkeypatch.delitem(sys.modules, "kblam.evaluation.harness", raising=False)
    with pytest.raises(EvaluationError, match=r"pip install 'kblam-kernels\[harness\]'"):
        importlib.import_module("kblam.evaluation.harness")
