"""One captured CUDA graph decodes on while the knowledge base changes under it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import StaticCache

from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import attach
from kblam.models.resident import ResidentKnowledge
from tests.fakes import HashingEncoder
from tests.models.tiny import EMBEDDING_DIM, close, differ, prompts, tiny_adapter, tiny_model

PROMPT, LENGTH = 10, 20


def fact(number: int, value: str = "old") -> Triple:
    return Triple(f"thing {number}", "color", f"{value} {number}")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
@pytest.mark.parametrize("plan", ["latent", "dense"])
def test_a_captured_step_sees_a_changed_triple(plan: str) -> None:
    # Heads wide enough for the kernels' tiles.
    model = tiny_model(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, head_dim=16).cuda()
    adapter = tiny_adapter(model, knowledge_scale=5.0)
    attachment = attach(model, adapter)
    ids, _ = prompts(length=LENGTH, padding=0)
    ids = ids.cuda()
    with KnowledgeBase.from_triples([fact(number) for number in range(20)], HashingEncoder(EMBEDDING_DIM)) as kb:
        resident = ResidentKnowledge(kb, adapter, dtype=torch.float32, device=model.device, plan=plan)
        with attachment.using(resident):
            cache = StaticCache(config=model.config, max_cache_len=LENGTH)
            model(ids[:, :PROMPT], past_key_values=cache)
            token = ids[:, PROMPT : PROMPT + 1].clone()
            # A step writes its own column of the cache: each run starts from a copy of the state before it.
            before = copy.deepcopy(cache)
            expected = model(token, past_key_values=copy.deepcopy(before)).logits
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    model(token, past_key_values=copy.deepcopy(before))
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = model(token, past_key_values=cache).logits
            graph.replay()
            close(logits, expected)
            kb.add([fact(3, "new"), fact(40), fact(41)])
            resident.sync()
            for static, saved in zip(cache.layers, before.layers, strict=True):
                for name, value in vars(saved).items():
                    if isinstance(value, torch.Tensor):
                        getattr(static, name).copy_(value)
            graph.replay()
            close(logits, model(token, past_key_values=copy.deepcopy(before)).logits)
            assert differ(logits, expected, by=1e-3)
