"""Adapters of every kind, with random weights: what they are made of reaches every knowledge layer of vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.exceptions import VLLMValidationError

from kblam import KnowledgeAdapter
from kblam.adapter import AdapterConfig
from kblam.knowledge import load_encoder
from kblam.models.loading import load_config
from tests.vllm.engine import engines
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
