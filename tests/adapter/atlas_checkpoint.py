"""A tiny checkpoint in the layout of AtlasKV's train.py (f624e51), its names spelled out here once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from tests.adapter.upstream_checkpoint import FREQUENCY, Checkpoint, encoder_state, head_state

ATLAS_HEAD = "model.layers.{}.self_attn.q_proj_kg.weight"


def atlas_encoder(**shape: Any) -> dict[str, Tensor]:
    """Its KBEncoder.state_dict(): token table and sentence encoder are no modules there, so only the projectors."""
    state = {name: tensor for name, tensor in encoder_state(**shape).items() if name != "embedding.weight"}
    return {
        name.replace("projector_k", "key_projector").replace("projector_v", "value_projector"): tensor
        for name, tensor in state.items()
    }


def atlas_heads() -> dict[str, Tensor]:
    return {name.replace("q_proj_new", "q_proj_kg"): tensor for name, tensor in head_state().items()}


class AtlasCheckpoint(Checkpoint):
    """`{train_dataset}_step_{N}` and its `_encoder` folder, with AtlasKVConfig as the record."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.write_encoder(atlas_encoder())
        self.write_heads(atlas_heads())

    def write_settings(self, name: str = "kb_config_explicit.json", **changes: Any) -> None:
        settings = {
            "base_model_name_or_path": "",
            "kb_layer_frequency": FREQUENCY,
            "kb_scale_factor": None,
            "root_top_k_kb": 500,
            "inter_top_k_kb": 500,
            "leaf_top_k_kb": 100000,
            "dynamic_sparsify": False,
            "sep_query_head": True,
            "attn_implementation": "eager",
            "use_kg": True,
            "use_hierarchial_kv": False,
            "transformers_version": "4.46.0",
        }
        (self.folder / name).write_text(json.dumps(settings | changes))


def assert_holds_atlas(adapter: KnowledgeAdapter, checkpoint: Checkpoint, head: str = ATLAS_HEAD) -> None:
    """The adapter has the checkpoint's linear projections under AtlasKV's names, and its heads under `head`."""
    for name in ("key_projector.weight", "key_projector.bias", "value_projector.weight", "value_projector.bias"):
        assert torch.equal(adapter.get_parameter(name), checkpoint.encoder[name]), name
    assert sorted(adapter.query_heads) == ["0", "3"]
    for layer, query_head in adapter.query_heads.items():
        assert torch.equal(query_head.weight, checkpoint.heads[head.format(layer)])
