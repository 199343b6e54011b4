"""Projection of embeddings into knowledge: encoder cases of every projector, and each configuration's pool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kblam.adapter.upstream import load_upstream
from tests.golden.comparison import Scores
from tests.golden.files import Case, cases_of, configurations, read_tensors
from tests.golden.upstream_models import UpstreamModels

pytestmark = pytest.mark.golden

TOLERANCE = 2e-5
# The same float32 number up to that, then one rounding to bfloat16: next door at worst.
BF16_STEP = torch.finfo(torch.bfloat16).eps


def assert_bfloat16_neighbours(ours: Tensor, golden: Tensor) -> None:
    """Equal up to one bfloat16 step (and the tolerance, near zero)."""
    torch.testing.assert_close(ours.float(), golden.float(), rtol=BF16_STEP, atol=TOLERANCE)


@pytest.mark.parametrize("case", cases_of("encoder"))
def test_encoder(case: Case, scores: Scores, tmp_path: Path) -> None:
    """Through the importer, which infers the projector from names and shapes. One slot: out_dim is hidden_size."""
    t = case.tensors()
    prefix, width = "state.", case["out_dim"]
    torch.save({n.removeprefix(prefix): x for n, x in t.items() if n.startswith(prefix)}, tmp_path / "encoder.pt")
    sizes = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    adapter = load_upstream(tmp_path, layer_frequency=2).requires_grad_(False)

    config, options = adapter.config, case["projector_kwargs"]
    assert (config.projector, config.embedding_dim) == (case["projector_type"], case["in_dim"])
    assert (config.mlp_depth, config.mlp_hidden_dim) == (options.get("mlp_depth", 0), options.get("mlp_hidden_dim", 0))
    projected = adapter.project(t["base_key_emb"], t["base_value_emb"])
    scores.close("keys", projected.keys, t["keys_f32"], TOLERANCE)
    scores.close("values", projected.values, t["values_f32"], TOLERANCE)
    rounded = projected.to(torch.bfloat16)
    assert_bfloat16_neighbours(rounded.keys, t["keys_bf16"])
    assert_bfloat16_neighbours(rounded.values, t["values_bf16"])


@pytest.mark.parametrize("folder", configurations())
def test_projection_of_a_pool(folder: Path, scores: Scores, upstream_models: UpstreamModels) -> None:
    """All entries at once, where upstream projected the bfloat16 ones one by one."""
    pool = read_tensors(folder / "kb.safetensors")
    adapter = upstream_models.adapter(folder, {"sep_query_head": False})
    projected = adapter.project(pool["base_key_emb"], pool["base_value_emb"])
    scores.close("keys", projected.keys, pool["kb_keys"], TOLERANCE)
    scores.close("values", projected.values, pool["kb_values"], TOLERANCE)
    n = len(pool["kb_keys_bf16"])
    rounded = projected.to(torch.bfloat16)
    assert_bfloat16_neighbours(rounded.keys[:n], pool["kb_keys_bf16"])
    assert_bfloat16_neighbours(rounded.values[:n], pool["kb_values_bf16"])
