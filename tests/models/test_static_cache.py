"""Decoding with a static cache, as transformers compiles it for CUDA graphs: what it reads stays where it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from transformers import CompileConfig, StaticCache

from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import attach
from kblam.models.resident import ResidentKnowledge
from tests.fakes import HashingEncoder
from tests.models.conftest import tie
from tests.models.tiny import EMBEDDING_DIM, differ, prompts


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def knowledge_base() -> Iterator[KnowledgeBase]:
    facts = [Triple(f"thing {number}", "color", f"old {number}") for number in range(20)]
    with KnowledgeBase.from_triples(facts, HashingEncoder(EMBEDDING_DIM)) as made:
        yield made


class Inputs:
    """A compiler that changes nothing and keeps the tensors that a replay would copy first."""

    def __init__(self) -> None:
        self.copied: list[Tensor] = []

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        for place, node in enumerate(placeholders):
            if node.meta["tensor_dict"].get("_dynamo_static_input_type") is None:
                self.copied.append(inputs[place])
        return graph.forward


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{"plan": "latent"}, {"plan": "latent", "storage": "int8"}, {"plan": "dense"}, {"query_storage": "int8"}],
    ids=["latents", "int8", "dense", "query heads in int8"],
)
def test_a_replay_copies_the_token_alone(options: dict[str, Any], knowledge_base: KnowledgeBase) -> None:
    tied = tie(layers=2, knowledge_scale=9.0)
    attachment = attach(tied.model, tied.adapter, **options)
    ids, _ = prompts(padding=0)
    inputs = Inputs()
    compiled = torch.compile(tied.model, fullgraph=True, backend=inputs)
    with attachment.using(knowledge_base):
        cache = StaticCache(config=tied.model.config, max_cache_len=20)
        tied.model(ids[:, :5], past_key_values=cache)
        compiled(ids[:, 5:6], past_key_values=cache)
    assert [tuple(copied.shape) for copied in inputs.copied] == [(len(ids), 1)]
    assert torch.equal(inputs.copied[0], ids[:, 5:6])


@pytest.mark.parametrize("plan", ["latent", "dense"])
def test_generate_keeps_its_graphs_when_triples_change(plan: str, knowledge_base: KnowledgeBase) -> None:
    tied = tie(layers=2, knowledge_scale=9.0)
    attachment = attach(tied.model, tied.adapter, plan=plan)
    ids, mask = prompts()
    how = CompileConfig(fullgraph=True, backend="aot_eager", mode=None)
    how._compile_all_devices = True  # transformers compiles on accelerators only, unless told
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True}

    def generate(**more: Any) -> Tensor:
        with attachment.using(knowledge_base):
            return torch.stack(tied.model.generate(ids, **options, **more).logits)

    def places() -> list[int]:
        with attachment.using(knowledge_base):
            resident = attachment.knowledge
            assert isinstance(resident, ResidentKnowledge)
            return [buffer.data_ptr() for buffer in resident.buffers.values()]

    static: dict[str, Any] = {"cache_implementation": "static", "compile_config": how}
    before, addresses = generate(**static), places()
    knowledge_base.add([Triple("thing 3", "color", "new"), Triple("thing 40", "color", "newer")])
    with torch._dynamo.config.patch(error_on_recompile=True):
        after = generate(**static)
    assert places() == addresses
    torch.testing.assert_close(after, generate(), atol=2e-5, rtol=1e-4)
    assert differ(after, before, by=1e-4)
