"""The whole model as upstream runs it: the same logits as ours from the same knowledge, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from kblam.bench import as_upstream, models, whole_model
from kblam.bench.as_upstream import AsUpstream, checked
from kblam.bench.models import CONFIGS, TINY, GrowingKnowledge
from kblam.bench.whole_model import ModelRow, Settings
from kblam.errors import BenchmarkError
from kblam.models import Attachment, attach
from kblam_kernels import DenseKnowledge

TRIPLES = 40


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def made(dtype: torch.dtype = torch.float32) -> tuple[Attachment, GrowingKnowledge]:
    model, adapter = models.parts(CONFIGS[TINY], "cpu")
    attachment = attach(model.to(dtype), adapter)
    return attachment, GrowingKnowledge(adapter, TRIPLES, dtype, dtype)


def logits(attachment: Attachment, tokens: int = 9) -> torch.Tensor:
    model: Any = attachment.model
    ids = torch.arange(tokens)[None] % model.config.vocab_size
    return model(ids).logits


def test_it_computes_what_an_attachment_does() -> None:
    attachment, source = made()
    plain = logits(attachment)
    with attachment.using(source):
        ours = logits(attachment)
    peer = AsUpstream(attachment, source)
    with peer.in_force():
        theirs = logits(attachment)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert (ours - plain).abs().max() > 0.1, "knowledge matters here"
    assert torch.equal(logits(attachment), plain), "nothing is left of it"
    config = attachment.config
    assert peer.num_bytes == 2 * TRIPLES * len(config.knowledge_layers) * config.num_heads * config.head_dim * 4


def test_it_decodes_with_a_cache_as_an_attachment_does() -> None:
    attachment, source = made()
    torch.manual_seed(0)
    decode = whole_model.Decoding(attachment.model, attachment.model, 16)
    tokens = []
    for block in (nullcontext(), attachment.using(source), AsUpstream(attachment, source).in_force()):
        decode._token.fill_(3)
        with block:
            tokens.append([(decode(), int(decode._token))[1] for _ in range(8)])
    without, ours, theirs = tokens
    assert theirs == ours
    assert ours != without, "knowledge matters here"


def test_one_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    attachment, source = made(torch.bfloat16)
    assert checked(attachment, source, "cpu").reason_against(source) is None
    built = AsUpstream.__init__

    def wrong(self: AsUpstream, *arguments: Any) -> None:
        built(self, *arguments)
        self._layers = {layer: DenseKnowledge(each.key, each.value / 2) for layer, each in self._layers.items()}

    monkeypatch.setattr(AsUpstream, "__init__", wrong)
    with pytest.raises(BenchmarkError, match=r"failed: .* off our logits, 0\.05 is allowed; not timed"):
        checked(attachment, source, "cpu")


def test_what_does_not_fit_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    attachment, source = made()
    monkeypatch.setattr(as_upstream, "free_memory", lambda device: 1000)
    monkeypatch.setattr(AsUpstream, "__init__", lambda *_: pytest.fail("made"))
    with pytest.raises(BenchmarkError, match="does not fit: keys and values of 40 triples need about"):
        checked(attachment, source, "cpu")


def test_a_row_of_a_model_has_it_beside_or_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    attachment, _ = made(torch.bfloat16)
    settings = Settings("cpu", context=20, repeats=1)
    timed = ModelRow("tiny model M40", TINY, TRIPLES, tokens_per_second=2.0, without=4.0, ratio=0.5)
    row = whole_model._with_upstream(timed, attachment, settings)
    assert row.as_upstream is not None
    assert row.as_upstream > 0 < (row.as_upstream_bytes or 0)
    assert f"; as upstream {row.as_upstream:.1f}" in whole_model.line_of(row)
    for problem, note in ((BenchmarkError("does not fit"), "does not fit"), (RuntimeError("no"), "RuntimeError: no")):

        def refuses(*_: Any, problem: Exception = problem) -> Any:
            raise problem

        monkeypatch.setattr(as_upstream, "checked", refuses)
        other = whole_model._with_upstream(timed, attachment, settings)
        assert (other.status, other.as_upstream, other.as_upstream_note) == ("measured", None, note)
        assert f"; as upstream {note}" in whole_model.line_of(other)
