"""One captured CUDA graph decodes on while the knowledge base changes under it; with pruning and evidence too."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import StaticCache

from kblam.generation.evidence import EvidenceRecorder
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import attach
from kblam.models.resident import ResidentKnowledge
from tests.fakes import HashingEncoder
from tests.models.tiny import EMBEDDING_DIM, close, differ, prompts, tiny_adapter, tiny_model

PROMPT, LENGTH = 10, 20
# To try the bodies without a GPU: "cpu", without the skip; a "graph" is then the call itself.
DEVICE = "cuda"


def fact(number: int, value: str = "old") -> Triple:
    return Triple(f"thing {number}", "color", f"{value} {number}")


class Step:
    """A decode step after the same prompt: logits, and what an observer saw of the evidence layer."""

    def __init__(self, call: Callable[[StaticCache], Tensor], cache: StaticCache) -> None:
        self._call = call
        self._cache, self._before = cache, copy.deepcopy(cache)

    def eager(self) -> Tensor:
        """On a copy of the state after the prompt: a step writes its own column of the cache."""
        return self._call(copy.deepcopy(self._before))

    def capture(self) -> Callable[[], Tensor]:
        """The step as a graph; each replay starts from the state after the prompt and gives the same tensor."""
        if DEVICE == "cpu":
            return self.eager
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.eager()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._call(self._cache)

        def replay() -> Tensor:
            for static, saved in zip(self._cache.layers, self._before.layers, strict=True):
                for name, value in vars(saved).items():
                    if isinstance(value, torch.Tensor):
                        getattr(static, name).copy_(value)
            graph.replay()
            return logits

        return replay


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
@pytest.mark.parametrize("top_k", [None, 12], ids=["all", "top_k"])
@pytest.mark.parametrize("plan", ["latent", "dense"])
def test_a_captured_step_sees_a_changed_triple(plan: str, top_k: int | None) -> None:
    # Heads wide enough for the kernels' tiles.
    model = tiny_model(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, head_dim=16).to(DEVICE)
    adapter = tiny_adapter(model, knowledge_scale=5.0, top_k=top_k)
    attachment = attach(model, adapter)
    ids, _ = prompts(length=LENGTH, padding=0)
    ids = ids.to(DEVICE)
    token = ids[:, PROMPT : PROMPT + 1].clone()
    # The observer that the graph is captured with, and one for each step beside it.
    recorders = [EvidenceRecorder() for _ in range(3)]
    with KnowledgeBase.from_triples([fact(number) for number in range(20)], HashingEncoder(EMBEDDING_DIM)) as kb:
        resident = ResidentKnowledge(kb, adapter, dtype=torch.float32, device=model.device, plan=plan)
        with attachment.using(resident):
            cache = StaticCache(config=model.config, max_cache_len=LENGTH)
            model(ids[:, :PROMPT], past_key_values=cache)
            step = Step(lambda cache: model(token, past_key_values=cache).logits, cache)
            with attachment.observing(recorders[0]):
                replay = step.capture()
            with attachment.observing(recorders[1]):
                expected = step.eager()
            with attachment.observing(recorders[0]):  # of use on a CPU alone: a replay calls no Python
                close(replay(), expected)
            hold_evidence(recorders[0], recorders[1])
            kb.add([fact(3, "new"), fact(40), fact(41)])
            resident.sync()
            with attachment.observing(recorders[0]):
                logits = replay()
            with attachment.observing(recorders[2]):
                close(logits, step.eager())
            hold_evidence(recorders[0], recorders[2])
            assert differ(logits, expected, by=1e-3)
            assert differ(recorders[2].masses[-1], recorders[1].masses[-1], by=1e-4)


def hold_evidence(captured: EvidenceRecorder, eager: EvidenceRecorder) -> None:
    """The masses that the last step left are those of a step of today: a graph rewrites what it captured."""
    close(captured.masses[-1], eager.masses[-1])
    assert torch.equal(captured.places[-1], eager.places[-1])
