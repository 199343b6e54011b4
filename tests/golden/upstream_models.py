"""Golden weights written as upstream writes a checkpoint, and what the project's importer makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kblam.adapter import KnowledgeAdapter, ProjectedKnowledge
from kblam.adapter.upstream import base_weights, load_upstream
from tests.golden.files import Case, read_json, read_tensors

# Fields of a golden config.json that describe the data, not the model.
_NOT_OF_THE_MODEL = {
    "arch", "kb_layer_frequency", "n_kb_slots", "kb_layers", "kb_slot_of_layer", "kb_out_dim", "base_emb_dim",
    "projector_type", "key_layernorm_eps", "seed", "upstream", "torch", "transformers",
}  # fmt: skip


class UpstreamModels:
    """Models and adapters of golden configurations, loaded from checkpoints in upstream's layout."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._models: dict[tuple[Any, ...], PreTrainedModel] = {}

    def checkpoint(self, folder: Path) -> Path:
        """The configuration's weights in the two folders that upstream's train.py writes."""
        name = "_".join(folder.parts[-2:])
        model_dir, encoder_dir = self._root / f"{name}_step_1", self._root / f"{name}_step_1_encoder"
        if not model_dir.exists():
            model_dir.mkdir()
            encoder_dir.mkdir()
            golden = read_json(folder / "config.json")
            fields = {key: value for key, value in golden.items() if key not in _NOT_OF_THE_MODEL}
            (model_dir / "config.json").write_text(json.dumps({**fields, "model_type": golden["arch"]}))
            shutil.copyfile(folder / "weights.safetensors", model_dir / "model.safetensors")
            torch.save(dict(read_tensors(folder / "encoder.safetensors")), encoder_dir / "encoder.pt")
        return model_dir

    def model(self, folder: Path, dtype: torch.dtype = torch.float32, *, own_window: bool = False) -> PreTrainedModel:
        """The plain Hugging Face model with the checkpoint's base weights.

        Upstream's Phi-3 lets a sliding window of W show W + 1 keys, so that the model gets W + 1 to agree with it;
        `own_window` keeps W.
        """
        key = (folder, dtype, own_window)
        if key not in self._models:
            checkpoint = self.checkpoint(folder)
            config = AutoConfig.from_pretrained(checkpoint)
            if getattr(config, "sliding_window", None) and not own_window:
                config.sliding_window += 1
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
            missing, unexpected = model.load_state_dict(dict(base_weights(checkpoint)), strict=False)
            tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
            assert set(unexpected) | set(missing) - tied == set()
            model.tie_weights()
            self._models[key] = model.eval()
        return self._models[key]

    def adapter(self, folder: Path, kb_config: dict[str, Any], **arguments: Any) -> KnowledgeAdapter:
        """The adapter, its switches recorded in the checkpoint as upstream records them."""
        checkpoint = self.checkpoint(folder)
        recorded = {**kb_config, "kb_layer_frequency": read_json(folder / "config.json")["kb_layer_frequency"]}
        (checkpoint / "kb_config_explicit.json").write_text(json.dumps(recorded))
        return load_upstream(checkpoint, **arguments).requires_grad_(False)


def knowledge_of(
    case: Case, kb_index: Tensor | None, adapter: KnowledgeAdapter, dtype: torch.dtype = torch.float32
) -> ProjectedKnowledge | None:
    """The knowledge of a case: its rows of the pool, shared (M, .) or per batch row (B, M, .); None for M = 0.

    Projected by the adapter in float32, except in the bfloat16 kinds, which start from upstream's own projections
    (a sum that rounds the other way would be a different input).
    """
    if kb_index is None:
        return None
    pool = read_tensors(case.folder / "kb.safetensors")
    if case.kind.startswith("bf16"):
        keys, values = (pool[name][kb_index].to(dtype) for name in ("kb_keys_bf16", "kb_values_bf16"))
        return ProjectedKnowledge(keys, values, adapter.config)
    return adapter.project(pool["base_key_emb"][kb_index], pool["base_value_emb"][kb_index], dtype)
