"""The shipped model: writing it after training, loading it for the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kblam.adapter import KnowledgeAdapter
from kblam.demo.tiny.model import DemoModel, rescale_inputs
from kblam.models import Attachment, attach
from kblam.models.loading import load_base, load_tokenizer
from kblam.shipped import DEMO

ASSETS = DEMO


@dataclass(frozen=True)
class Demo:
    """The demo model, ready to answer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    attachment: Attachment


def save(model: DemoModel, tokenizer: PreTrainedTokenizerFast, folder: Path = ASSETS) -> None:
    """Writes `folder/model` (a plain Llama with its tokenizer) and `folder/adapter`, both in bfloat16.

    Changes `model`: embeddings are folded, the adapter takes unit-norm sentence vectors afterwards.
    """
    model.fold()
    rescale_inputs(model.adapter)
    cast(nn.Module, model.base).to(torch.bfloat16)
    model.base.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    model.adapter.to(torch.bfloat16).save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # a blank form; the card of both is `folder/README.md`


def load(
    folder: Path = ASSETS, *, dtype: torch.dtype = torch.float32, backend: str = "auto", exact: bool = False
) -> Demo:
    """The demo model with its adapter attached.

    Args:
        folder: written by `save`.
        dtype: to compute in. The stored weights are bfloat16; float32 is as fast on most CPUs.
        backend: of the kernels.
        exact: False keeps the knowledge base as int8 latents and allows int8 products, which costs this model no answer
            (docs/latent.md); True is what `attach` does unless told.
    """
    model = cast(LlamaForCausalLM, load_base(folder / "model", dtype=dtype, device="cpu"))
    tokenizer = load_tokenizer(folder / "model")
    adapter = KnowledgeAdapter.from_pretrained(folder / "adapter").to(dtype)
    storage = "auto" if exact else "int8"
    attachment = attach(model, adapter, backend=backend, storage=storage, int8_products=not exact)
    return Demo(model, cast(PreTrainedTokenizerFast, tokenizer), attachment)
