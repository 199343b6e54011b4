"""Knowledge is state of a call: threads and tasks that overlap on one model each get their own answers."""

from __future__ import annotations

import asyncio
import copy
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from kblam.adapter import KnowledgeAdapter
from kblam.errors import KnowledgeError, UnsupportedModelError
from kblam.models import Attachment, attach, attachment_of, detach
from kblam.models.checks import check_fit
from kblam.models.hooks import hooks_of
from tests.models.conftest import Tied, tie
from tests.models.test_attach import implementation
from tests.models.tiny import CONFIGS, differ, logits, prompts, stepwise, tiny_adapter, tiny_model, triples

IDS, MASK = prompts(length=16, padding=3)
ATTACHING = sys.modules["kblam.models.attach"]  # the package has a function of this name


def elsewhere(work: Callable[[], Any]) -> Any:
    """What it returns in a thread that has no block of its own."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()


def test_each_thread_has_its_own_knowledge(tied: Tied) -> None:
    sources = [triples(tied.adapter, 9, seed=seed) for seed in range(3)]

    def answer(number: int) -> Tensor:
        with tied.attachment.using(sources[number]):
            return logits(tied.model, IDS, MASK)

    alone = [answer(number) for number in range(3)]
    base = logits(tied.model, IDS, MASK)
    assert differ(alone[0], alone[1])

    def work(number: int) -> bool:
        if number % 4 == 3:
            return torch.equal(logits(tied.model, IDS, MASK), base)
        return torch.equal(answer(number % 4), alone[number % 4])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(200)))
    assert implementation(tied.model) == "sdpa"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_call_without_knowledge_is_the_base_model_while_another_has_some(family: str, attention: str) -> None:
    model = tiny_model(family, attention=attention)

    def work() -> list[Tensor]:
        found = [logits(model, IDS, MASK), logits(model, IDS)]
        sizes = [5, 4, 1, 1, 5]
        for mask in (MASK, None):
            found.append(stepwise(model, IDS, mask, DynamicCache(config=model.config), sizes))
        options = {"attention_mask": MASK, "max_new_tokens": 4, "do_sample": False, "disable_compile": True}
        for cache in ("dynamic", "static"):
            found.append(model.generate(IDS, **options, cache_implementation=cache))
        return found

    expected = work()
    adapter = tiny_adapter(model)
    attachment = attach(model, adapter)
    with attachment.using(triples(adapter, 9)):
        assert implementation(model) == "kblam"
        others = [elsewhere(work)]
        with attachment.using(None):
            others.append(work())
    for found in others:
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert implementation(model) == attention


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("comes", "goes"), [(0, 2), (0, 3), (1, 1), (None, 0)], ids=str)
def test_a_pass_in_the_middle_of_which_another_comes_and_goes_is_the_base_models(
    comes: int | None, goes: int, attention: str
) -> None:
    """After which layers; None is before the mask was made."""
    model = tiny_model(attention=attention)
    base = logits(model, IDS, MASK)
    adapter = tiny_adapter(model)
    block = attach(model, adapter).using(triples(adapter, 9))
    seen = []
    with ThreadPoolExecutor(1) as other:

        def step(layer: int) -> None:
            if layer == comes:
                other.submit(block.__enter__).result()
            seen.append(implementation(model))
            if layer == goes:
                other.submit(block.__exit__, None, None, None).result()

        if comes is None:
            other.submit(block.__enter__).result()
        for number, layer in enumerate(model.model.layers):
            layer.register_forward_hook(lambda *_, number=number: step(number))
        assert torch.equal(logits(model, IDS, MASK), base)
    assert seen.count("kblam") == goes - (comes or 0) + 1
    assert implementation(model) == attention


def test_the_default_is_for_threads_without_a_block(tied: Tied) -> None:
    default, own = triples(tied.adapter, 9), triples(tied.adapter, 5, seed=8)
    with tied.attachment.using(default):
        expected = logits(tied.model, IDS)
    base = logits(tied.model, IDS)
    tied.attachment.set_knowledge(default)
    with tied.attachment.using(own):
        assert tied.attachment.knowledge is own
        assert differ(logits(tied.model, IDS), expected)
        assert torch.equal(elsewhere(lambda: logits(tied.model, IDS)), expected)
    with tied.attachment.using(None):
        assert torch.equal(logits(tied.model, IDS), base)
    assert torch.equal(logits(tied.model, IDS), expected)
    tied.attachment.set_knowledge(None)
    assert implementation(tied.model) == "sdpa"


def test_an_observer_sees_its_own_thread_alone(tied: Tied) -> None:
    knowledge = triples(tied.adapter, 9)
    mine: list[int] = []
    theirs: list[int] = []

    def other() -> None:
        with tied.attachment.using(knowledge), tied.attachment.observing(lambda **what: theirs.append(1)):
            logits(tied.model, IDS)

    with tied.attachment.observing(lambda **what: mine.append(1)), tied.attachment.using(knowledge):
        logits(tied.model, IDS)
        elsewhere(other)
        elsewhere(lambda: logits(tied.model, IDS))
    assert (len(mine), len(theirs)) == (1, 1)


def test_a_block_that_fails_leaves_nothing_in_force(tied: Tied) -> None:
    base = logits(tied.model, IDS)

    def fail(**_: object) -> None:
        raise RuntimeError("stop")

    def work() -> None:
        with tied.attachment.using(triples(tied.adapter, 9)), tied.attachment.observing(fail):
            logits(tied.model, IDS)

    for run in (lambda: elsewhere(work), work):
        with pytest.raises(RuntimeError, match="stop"):
            run()
        assert tied.attachment.knowledge is None
        assert implementation(tied.model) == "sdpa"
        assert torch.equal(logits(tied.model, IDS), base)


def test_tasks_of_one_thread_have_their_own_knowledge(tied: Tied) -> None:
    """They overlap wherever one awaits, and leave in another order than they came."""
    sources = [triples(tied.adapter, 9, seed=seed) for seed in range(2)]
    alone = []
    for source in sources:
        with tied.attachment.using(source):
            alone.append(logits(tied.model, IDS))

    async def ask(number: int) -> list[bool]:
        found = []
        with tied.attachment.using(sources[number]):
            for _ in range(2 + number):
                await asyncio.sleep(0)
                found.append(torch.equal(logits(tied.model, IDS), alone[number]))
            in_a_thread = await asyncio.to_thread(logits, tied.model, IDS)
        return [*found, torch.equal(in_a_thread, alone[number])]

    async def both() -> list[list[bool]]:
        return await asyncio.gather(ask(0), ask(1))

    assert all(all(found) for found in asyncio.run(both()))
    assert implementation(tied.model) == "sdpa"


@pytest.fixture(scope="module")
def compiled() -> Iterator[tuple[Tied, Any]]:
    """A model, and the same compiled."""
    torch._dynamo.reset()
    tied = tie(layers=2)
    yield tied, torch.compile(tied.model, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()


@torch.no_grad()
def test_threads_share_a_compiled_model(compiled: tuple[Tied, Any]) -> None:
    tied, of_it = compiled
    base = tied.model(IDS, use_cache=False).logits
    sources = [None, *(triples(tied.adapter, 9, seed=seed) for seed in range(3))]
    barrier = threading.Barrier(4)

    def answer(number: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), tied.attachment.using(sources[number]):  # gradients are a setting of each thread
            barrier.wait()
            return of_it(IDS, use_cache=False).logits, tied.model(IDS, use_cache=False).logits

    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            found = list(threads.map(answer, range(4)))
            for one, other in found:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
            assert torch.equal(found[0][1], base)
            assert differ(found[1][0], found[2][0])


@torch.no_grad()
def test_tasks_share_a_compiled_model_in_one_thread_and_in_the_one_they_send_work_to(
    compiled: tuple[Tied, Any],
) -> None:
    """They overlap, so what a thread ran last, or entered last, is not what counts."""
    tied, of_it = compiled
    sources = [None, *(triples(tied.adapter, 9, seed=seed) for seed in range(2))]
    expected = []
    for source in sources:
        with tied.attachment.using(source):
            expected.append(tied.model(IDS, use_cache=False).logits)

    def agrees(number: int) -> bool:
        with torch.no_grad():
            return torch.allclose(of_it(IDS, use_cache=False).logits, expected[number], rtol=1e-4, atol=1e-4)

    async def ask(number: int) -> list[bool]:
        found = []
        with tied.attachment.using(sources[number]):
            for _ in range(3):
                await asyncio.sleep(0)
                found += [agrees(number), await asyncio.to_thread(agrees, number)]
        return found

    async def all_of_them() -> list[list[bool]]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        return await asyncio.gather(*map(ask, range(3)))

    assert asyncio.run(all_of_them()) == [[True] * 6] * 3
    assert agrees(0)


def test_a_copy_of_an_attached_model_has_an_attachment_of_its_own(tied: Tied) -> None:
    ids = IDS
    knowledge = triples(tied.adapter, 9)
    with tied.attachment.using(knowledge):
        expected = logits(tied.model, ids)
    base = logits(tied.model, ids)
    saved = io.BytesIO()
    torch.save(tied.model, saved)
    saved.seek(0)
    for other in (copy.deepcopy(tied.model), torch.load(saved, weights_only=False)):
        attachment = attachment_of(other)
        assert attachment is not tied.attachment
        with attachment.using(knowledge):
            assert torch.equal(logits(other, ids), expected)
            assert torch.equal(logits(tied.model, ids), base)
            assert torch.equal(elsewhere(lambda other=other: logits(other, ids, MASK)), logits(tied.model, ids, MASK))


def test_models_of_one_config_object_take_turns(tied: Tied) -> None:
    other = type(tied.model)(tied.model.config).eval()
    base = logits(other, IDS, MASK)
    knowledge = triples(tied.adapter, 9)
    with tied.attachment.using(knowledge):
        expected = logits(tied.model, IDS, MASK)
        torch.testing.assert_close(logits(other, IDS, MASK), base, rtol=1e-4, atol=1e-4)
        assert torch.equal(elsewhere(lambda: logits(other, IDS, MASK)), base)
    attachment = attach(other, tiny_adapter(other))
    with attachment.using(knowledge):
        assert differ(logits(other, IDS, MASK), base)
        with pytest.raises(KnowledgeError, match="shares this one's config object"), tied.attachment.using(knowledge):
            pass
        assert differ(logits(other, IDS, MASK), base)
    assert implementation(other) == "sdpa"
    with tied.attachment.using(knowledge):
        assert torch.equal(logits(tied.model, IDS, MASK), expected)


def test_a_layer_that_drops_keyword_arguments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    layer = type(model.model.layers[0])
    monkeypatch.setattr(layer, "forward", lambda self, hidden_states, attention_mask=None: hidden_states)
    with pytest.raises(UnsupportedModelError, match="LlamaDecoderLayer does not pass keyword arguments on"):
        attach(model, tiny_adapter(model))


@pytest.mark.parametrize("same", [True, False], ids=["one adapter", "two adapters"])
def test_threads_that_attach_at_once_take_turns(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets a whole attachment; two of them never lie on one model."""
    model = tiny_model()
    adapters = [tiny_adapter(model)] * 2 if same else [tiny_adapter(model, seed=seed) for seed in (1, 2)]
    both, inside, most = threading.Barrier(2), list[int](), list[int]()

    def slow(*args: Any) -> None:
        """Stays a moment with whoever else has come this far."""
        inside.append(1)
        time.sleep(0.1)
        most.append(len(inside))
        inside.pop()
        check_fit(*args)

    monkeypatch.setattr(ATTACHING, "check_fit", slow)

    def work(adapter: KnowledgeAdapter) -> Attachment:
        both.wait()
        return attach(model, adapter)

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(work, adapters))
    assert set(most) == {1}
    assert (found[0] is found[1]) is same
    assert attachment_of(model) in found
    hooks = [hook for module in model.modules() for hook in hooks_of(module)]
    assert len(hooks) == 1 + model.config.num_hidden_layers
    assert {hook.attachment for hook in hooks} == {attachment_of(model)}
    detach(model)
    assert not any(hooks_of(module) for module in model.modules())


def test_nobody_gets_an_attachment_that_is_not_proven_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    adapter = tiny_adapter(model)
    begun, may_end = threading.Event(), threading.Event()

    def unserved(attachment: Attachment) -> None:
        begun.set()
        may_end.wait(10)
        raise UnsupportedModelError("it is not served")

    monkeypatch.setattr(ATTACHING, "prove", unserved)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(attach, model, adapter)
        begun.wait(10)
        later = threads.submit(attach, model, adapter), threads.submit(detach, model)
        time.sleep(0.1)
        assert not any(each.done() for each in later)
        may_end.set()
        for each in (first, later[0]):
            with pytest.raises(UnsupportedModelError, match="it is not served"):
                each.result()
        later[1].result()
    assert attachment_of(model) is None
