"""Adapters of every kind, with random weights: what they are made of reaches every knowledge layer of vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.exceptions import VLLMValidationError

from kblam import KnowledgeAdapter
from kblam.adapter import AdapterConfig
from kblam.adapter.files import read_config
from kblam.adapter.property_head import PropertyHead
from kblam.knowledge import load_encoder
from kblam.models.loading import load_config
from kblam.shipped import SMOLLM2_ADAPTER
from kblam.training.properties import with_head
from tests.vllm.engine import engines
from tests.vllm.engine.decided import ask as ask_decided
from tests.vllm.engine.decided import assert_answered, every_kind, expected
from tests.vllm.engine.engines import Reference, ask, assert_alike, said_by

KINDS: dict[str, dict[str, Any]] = {
    "question-mlp-scale": {
        "layers": (0, 1, 3),
        "question_head": "mlp",
        "question_hidden_dim": 32,
        "knowledge_scale": 100.0,
        "evidence_layer": 1,
    },
    "rotated-query": {"separate_query_head": False, "layer_frequency": 2},
    "mlp-projector": {"projector": "mlp", "mlp_depth": 1, "mlp_hidden_dim": 96, "layers": (1, 2)},
}


@pytest.mark.parametrize("storage", ["auto", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_says_in_vllm_what_it_says_attached(
    kind: str, storage: str, bases: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(3)
    config = AdapterConfig.for_model(
        load_config(engines.MODEL), 384, encoder=load_encoder("minilm").fingerprint, **KINDS[kind]
    )
    adapter = KnowledgeAdapter(config).eval()
    for parameter in adapter.question_trunk.parameters():  # a fresh one is the identity
        torch.nn.init.normal_(parameter, std=0.05)
    adapter.save_pretrained(tmp_path)
    given = engines.settings(bases, storage=storage)
    given["kblam"]["adapter"] = str(tmp_path)
    reference = Reference(bases, KnowledgeAdapter.from_pretrained(tmp_path), storage=storage, plan="latent")
    rows = engines.requests(2)
    expected = [reference.say(row) for row in rows]
    assert expected[0].tokens != expected[-2].tokens  # knowledge matters
    engine = engines.start(given)
    assert caplog.text.count(f"the adapter ({tmp_path}) is untrained: what it finds is chance") == 1
    params = [
        row.params(extra={"kblam_question": row.question} if config.question_head and row.base else {}) for row in rows
    ]
    outputs = engine.generate([row.prompt for row in rows], params, use_tqdm=False)
    assert_alike([said_by(output) for output in outputs], expected)
    if config.question_head:
        with pytest.raises(VLLMValidationError, match="knowledge queries need the question"):
            ask(engine, rows[:1])


def test_a_property_head_that_reads_layers_decides_as_it_does_attached(bases: dict[str, Path], tmp_path: Path) -> None:
    """The front end encodes questions with these layers, and attention still gets the sentence vectors alone."""
    torch.manual_seed(3)
    shipped = read_config(SMOLLM2_ADAPTER)
    config = AdapterConfig.for_model(
        load_config(engines.MODEL),
        384,
        encoder=load_encoder("minilm").fingerprint,
        pointer=True,
        known_above=0.4,
        confidence=shipped.confidence,
        **KINDS["question-mlp-scale"],
    )
    head = PropertyHead(384, 32, layers=2)
    torch.nn.init.normal_(head.question.bias)
    with_head(KnowledgeAdapter(config).eval(), head, layers=(2, 4)).save_pretrained(tmp_path)
    adapter = KnowledgeAdapter.from_pretrained(tmp_path)
    assert adapter.config.property_layers == (2, 4)
    given = engines.settings(bases)
    given["kblam"]["adapter"] = str(tmp_path)
    reference, asked = Reference(bases, adapter, plan="latent"), every_kind()
    answers = expected(reference, asked)
    assert len({answer.text for answer in answers}) > 3
    engine = engines.start(given, max_model_len=256)
    assert_answered(ask_decided(engine, asked), answers)
