"""What a judge keeps from one question to the next: while the base and the weights are the same, and no longer."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch

from kblam import Triple
from kblam.errors import EncoderError, KnowledgeError
from kblam.models.judging import Judge, judge_of
from tests.fakes import HashingEncoder
from tests.models.judges import Counting, adapter, base, judged, vectors


def test_properties_are_encoded_once_and_followed() -> None:
    encoder, asking = Counting(), adapter()
    with base(encoder, "price", "weight", "price") as kb:
        encoder.seen.clear()
        judge = judge_of(asking, kb)
        assert judge is not None
        assert encoder.seen == ["the everything of it", "the price of it", "the weight of it"]
        encoder.seen.clear()
        assert judge_of(asking, kb) is judge
        kb.add(Triple("Anvil 0", "price", "y"))
        assert judge_of(asking, kb) is judge
        assert "it" not in " ".join(encoder.seen).split()
        kb.add(Triple("Anvil 9", "color", "red"))
        encoder.seen.clear()
        assert judge_of(asking, kb) is judge
        assert encoder.seen == ["the color of it"]
        asked = [judged("the color of Anvil 9", ("Anvil 9", "price", 0.1))]
        assert judge.signs(asked)[0][0].other == 1
        assert judge.says_a_name("the color of Anvil 9")
        kb.remove("Anvil 9", "color")
        judge_of(asking, kb)
        assert judge.signs(asked)[0][0].other == 0
        assert not judge.says_a_name("the color of Anvil 9")
        fresh = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
        asked = [judged("the price of Anvil 9", ("Anvil 9", "price", 0.1))]
        assert judge.signs(asked)[0][0].share == pytest.approx(fresh.signs(asked)[0][0].share)


def test_an_encoder_that_fails_once_is_asked_again() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    with base(encoder, "price", "weight") as kb:
        whole, fails = encoder.encode, [True]

        def encode(texts, **options):  # type: ignore[no-untyped-def]
            if fails.pop() if fails else False:
                raise EncoderError("the server is busy")
            return whole(texts, **options)

        encoder.encode = encode  # type: ignore[method-assign]
        with pytest.raises(EncoderError, match="busy"):
            judge_of(asking, kb)
        judge = judge_of(asking, kb)
        assert judge is not None
        assert judge.signs([judged("the price of Anvil 0", ("Anvil 0", "price", 0.1))])[0][0].share < 0


def test_a_judge_reads_the_weights_that_the_adapter_has_now() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    one = [judged("What is the price of Anvil 3?", ("Anvil 3", "price", 0.25))]
    before = judge.verdicts(one)
    assert asking.property_head is not None
    with torch.no_grad():
        asking.property_head.question.weight.add_(1.5 * torch.randn_like(asking.property_head.question.weight))
    between = judge.verdicts(one)
    assert between != before
    with torch.no_grad():
        asking.property_head.property.weight.add_(torch.randn_like(asking.property_head.property.weight))
    assert judge.verdicts(one) != between
    asking.config = replace(asking.config, confidence=None)
    with pytest.raises(KnowledgeError, match="has no confidence"):
        judge.verdicts(one)


def test_a_judge_keeps_no_knowledge_base_alive() -> None:
    kb = base(HashingEncoder(16), "price")
    asking = adapter()
    judge_of(asking, kb)
    gone = weakref.ref(kb)
    kb.close()
    del kb
    gc.collect()
    assert gone() is None


def test_a_judge_keeps_no_adapter_alive() -> None:
    with base(HashingEncoder(16), "price") as kb:
        asking = adapter()
        assert judge_of(asking, kb) is not None
        gone = weakref.ref(asking)
        del asking
        gc.collect()
        assert gone() is None


def one_share(judge: Judge) -> float:
    ((signs,),) = judge.signs([judged("What is the price of Anvil 3?", ("Anvil 3", "price", 0.25))])
    return signs.share


def test_autocast_changes_no_share() -> None:
    """Nor what is kept for a call outside it, which reads in another precision."""
    encoder, asking = HashingEncoder(16), adapter()
    first, later = (Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"]) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        under = one_share(first)
    assert one_share(first) == under == one_share(later)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_head_may_change_its_precision(dtype: torch.dtype) -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    before = one_share(judge)
    asking.to(dtype)
    assert one_share(judge) == pytest.approx(before, abs=0.2)
    asking.float()
    fresh = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    assert one_share(judge) == one_share(fresh)


def test_a_head_whose_weights_are_written_past_autograd_is_read_anew() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    before = one_share(judge)
    assert asking.property_head is not None
    asking.property_head.property.weight.data.mul_(torch.linspace(-1, 2, 16))
    changed = one_share(judge)
    assert changed != before
    hook = asking.property_head.property.register_forward_hook(lambda module, given, output: output.flip(-1))
    assert one_share(judge) not in (before, changed)
    hook.remove()
    assert one_share(judge) == changed


def test_a_thread_that_is_slow_forgets_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It read the names before the last change, and another thread read them after it."""
    encoder, asking = HashingEncoder(16), adapter()
    with base(encoder, "price", "weight") as kb:
        assert judge_of(asking, kb) is not None
        kb.remove("Anvil 1")
        names, properties, has_read, may_go = kb.names, kb.properties, threading.Event(), threading.Event()

        def read_names(*, since: int = 0) -> list[str]:
            found = names(since=since)
            if threading.current_thread() is slow:
                has_read.set()
                may_go.wait(1)
            return found

        def read_properties(**which: int) -> list[str]:
            if threading.current_thread() is quick:
                may_go.set()
                slow.join(10)
            return properties(**which)

        monkeypatch.setattr(kb, "names", read_names)
        monkeypatch.setattr(kb, "properties", read_properties)
        slow, quick = (threading.Thread(target=judge_of, args=(asking, kb)) for _ in range(2))
        slow.start()
        has_read.wait(10)
        kb.add(Triple("Anvil 7", "price", "y"))
        quick.start()
        quick.join()
        slow.join()
        judge = judge_of(asking, kb)
        assert judge is not None
        assert judge.names_meant("the price of Anvil 7") == ["Anvil 7"]
