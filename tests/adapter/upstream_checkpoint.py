"""Tiny checkpoints in the layouts of upstream's scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from kblam.adapter import KnowledgeAdapter

HIDDEN, LAYERS, HEADS, P = 16, 6, 4, 5
FREQUENCY = 3  # knowledge in layers 0 and 3, three slots
OUT_DIM = (1 + LAYERS // FREQUENCY) * HIDDEN
HEAD = "model.layers.{}.self_attn.q_proj_new.weight"


def model_config(**changes: Any) -> dict[str, Any]:
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    return {"model_type": "llama", "_name_or_path": "meta-llama/tiny", **sizes, **changes}


def encoder_state(out_dim: int = OUT_DIM, hidden: int | None = None, depth: int = 0) -> dict[str, Tensor]:
    """projector_k, projector_v and the unused table, as KBEncoder.state_dict() names them."""
    widths = {"": (P, out_dim)}
    if hidden is not None:
        widths = {".0": (P, hidden)}
        widths |= {f".{1 + 2 * i}": (hidden, hidden) for i in range(depth)}
        widths[f".{1 + 2 * depth}"] = (hidden, out_dim)
    state = {"embedding.weight": torch.randn(6, out_dim)}
    for which in "kv":
        for place, (fan_in, fan_out) in widths.items():
            state[f"projector_{which}{place}.weight"] = torch.randn(fan_out, fan_in)
            state[f"projector_{which}{place}.bias"] = torch.randn(fan_out)
    return state


def head_state(layers: range = range(LAYERS)) -> dict[str, Tensor]:
    """What upstream adds to each layer; query heads exist everywhere, and count in knowledge layers only."""
    state = {HEAD.format(layer): torch.randn(HIDDEN, HIDDEN).bfloat16() for layer in layers}
    return state | {f"model.layers.{layer}.self_attn.score_shift": torch.zeros(HEADS, 1) for layer in layers}


class Checkpoint:
    """A checkpoint as train.py writes it: `run_step_3000` and, beside it, `run_step_3000_encoder/encoder.pt`."""

    def __init__(self, root: Path) -> None:
        torch.manual_seed(0)
        self.folder = root / "run_step_3000"
        self.encoder_folder = root / "run_step_3000_encoder"
        self.folder.mkdir()
        self.encoder_folder.mkdir()
        self.encoder, self.heads = encoder_state(), head_state()
        self.write_config()
        self.write_settings()
        self.write_encoder(self.encoder)
        save_file(self.heads, self.folder / "model.safetensors")

    def write_config(self, **changes: Any) -> None:
        (self.folder / "config.json").write_text(json.dumps(model_config(**changes)))

    def write_settings(self, name: str = "kb_config_explicit.json", **changes: Any) -> None:
        settings = {"kb_layer_frequency": FREQUENCY, "kb_scale_factor": None, "sep_query_head": True}
        settings |= {"dynamic_sparsify": False, "top_k_kb": 100, **changes}
        (self.folder / name).write_text(json.dumps(settings))

    def drop_settings(self) -> None:
        (self.folder / "kb_config_explicit.json").unlink()

    def write_encoder(self, state: dict[str, Tensor]) -> None:
        self.encoder = state
        torch.save(state, self.encoder_folder / "encoder.pt")

    def write_heads(self, state: dict[str, Tensor]) -> None:
        self.heads = state
        save_file(state, self.folder / "model.safetensors")


def assert_holds(adapter: KnowledgeAdapter, checkpoint: Checkpoint) -> None:
    """The adapter has the checkpoint's linear projections and the heads of its knowledge layers."""
    for which, ours in (("k", adapter.key_projector), ("v", adapter.value_projector)):
        torch.testing.assert_close(ours.weight, checkpoint.encoder[f"projector_{which}.weight"], rtol=0, atol=0)
        torch.testing.assert_close(ours.bias, checkpoint.encoder[f"projector_{which}.bias"], rtol=0, atol=0)
    assert sorted(adapter.query_heads) == ["0", "3"]
    for layer, head in adapter.query_heads.items():
        assert torch.equal(head.weight, checkpoint.heads[HEAD.format(layer)])


def write_shards(checkpoint: Checkpoint, suffix: str, write: Callable[[dict[str, Tensor], Path], None]) -> None:
    """The query heads in two files and an index, `suffix` being what one file would be called."""
    (checkpoint.folder / "model.safetensors").unlink()
    names = sorted(checkpoint.heads)
    stem, weight_map = suffix.split(".")[0], {}
    for number, part in enumerate((names[:4], names[4:]), start=1):
        shard = f"{stem}-{number:05}-of-00002.{suffix.split('.')[1]}"
        write({name: checkpoint.heads[name] for name in part}, checkpoint.folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (checkpoint.folder / f"{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
