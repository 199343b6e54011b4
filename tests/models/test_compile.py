"""An attached model under `torch.compile`: one graph, and no second one while it decodes."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator

import pytest
import torch
from transformers import CompileConfig, PreTrainedConfig, StaticCache

from kblam.models.switch import switch_of
from tests.models.conftest import tie
from tests.models.tiny import close, logits, prompts, triples

IDS, _ = prompts()


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_decoding_keeps_one_graph(family: str) -> None:
    tied = tie(family, layers=2, knowledge_scale=9.0)
    ids, mask = prompts(length=32, padding=4)
    with tied.attachment.using(triples(tied.adapter, 9), bias=torch.linspace(-1, 1, 9)):
        expected = logits(tied.model, ids, mask)
        compiled = torch.compile(tied.model, fullgraph=True, backend="aot_eager")
        cache = StaticCache(config=tied.model.config, max_cache_len=32)
        tied.model(ids[:, :10], attention_mask=mask[:, :10], past_key_values=cache)

        def step(place: int) -> None:
            out = compiled(ids[:, place : place + 1], attention_mask=mask, past_key_values=cache)
            close(out.logits[:, 0], expected[:, place])

        for place in (10, 11):
            step(place)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for place in range(12, 32):
                step(place)


@torch.no_grad()
def test_other_knowledge_of_one_shape_keeps_the_graph() -> None:
    tied = tie(layers=2)
    ids, mask = prompts()
    compiled = torch.compile(tied.model, fullgraph=True, backend="aot_eager")
    for seed in (1, 2, 3):
        with (
            torch._dynamo.config.patch(error_on_recompile=seed > 2),
            tied.attachment.using(triples(tied.adapter, 9, seed=seed)),
        ):
            out = compiled(ids, attention_mask=mask, use_cache=False).logits * mask[..., None]
            close(out, logits(tied.model, ids, mask))


@torch.no_grad()
def test_models_may_come_and_go_while_one_is_compiled() -> None:
    tied = tie(layers=2)
    others, is_done = deque([PreTrainedConfig() for _ in range(400)]), threading.Event()
    for config in others:
        switch_of(config)

    def come_and_go() -> None:
        while not is_done.is_set():
            for _ in range(100):
                others.append(PreTrainedConfig())
                switch_of(others[-1])
            for _ in range(100):
                others.popleft()

    meanwhile, interval = threading.Thread(target=come_and_go), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    meanwhile.start()
    try:
        with tied.attachment.using(triples(tied.adapter, 9)):
            compiled = torch.compile(tied.model, fullgraph=True, backend="aot_eager")
            found = compiled(IDS, use_cache=False).logits
            close(found, logits(tied.model, IDS))
    finally:
        is_done.set()
        meanwhile.join()
        sys.setswitchinterval(interval)


def test_gradients_through_one_graph() -> None:
    found = []
    for compiled in (False, True):
        tied = tie(layers=2)
        tied.adapter.requires_grad_(True)
        ids, mask = prompts()
        model = torch.compile(tied.model, fullgraph=True, backend="aot_eager") if compiled else tied.model
        with tied.attachment.using(triples(tied.adapter, 9)):
            model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), use_cache=False).loss.backward()
        found.append({name: p.grad for name, p in tied.adapter.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_generate_compiles_its_own_decoding() -> None:
    tied = tie(layers=2)
    ids, mask = prompts()
    options = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    how = CompileConfig(fullgraph=True, backend="aot_eager", mode=None)
    how._compile_all_devices = True  # transformers compiles on accelerators only, unless told
    with tied.attachment.using(triples(tied.adapter, 9)):
        expected = tied.model.generate(ids, **options)
        torch._dynamo.utils.counters.clear()
        compiled = tied.model.generate(ids, **options, cache_implementation="static", compile_config=how)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch.equal(compiled, expected)
    assert 1 <= graphs <= 2
