"""Ceilings of a CPU: turns, products, and shares within a turn."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from kblam.bench import probes, timing
from kblam.bench.probes import PRODUCT, READ, Probe
from kblam.bench.problems import problem_of
from kblam.bench.shapes import TINY, Work, of
from kblam.bench.subjects import Subject, names, subjects
from tests.fakes import clock

SHAPE = of(TINY, "decode", 70, context=3)


def subject(name: str, *, flops: int = 0, elements: int = 0, layout: str = "dense") -> Subject:
    nothing: Callable[..., object] = lambda *_: None  # noqa: E731
    return Subject(name, nothing, nothing, Work(flops, elements), lambda x: [], layout)  # type: ignore[arg-type]


def probe(amount: float) -> Probe:
    return Probe(lambda: None, amount)


def test_a_probe_reads_all_bytes_that_a_subject_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(probes, "read", lambda tensor: counted.append(tensor.nbytes))
    x = problem_of(SHAPE, "cpu", torch.float32)
    chosen = [s for s in subjects(SHAPE, x, names("decode", "cpu")) if s.name in ("kblam latent int8", "kblam dense")]
    for name, made in probes.probes(SHAPE, chosen, x).items():
        if name.startswith(READ):
            made.call()
            assert sum(counted) == made.amount == {"latent int8": 2 * 70 * 24, "dense": 2 * 4 * 70 * 16 * 4}[name[6:]]
            counted.clear()


@pytest.mark.parametrize("tensor", [torch.ones(3, 5, dtype=torch.int8), torch.ones(4, 6)[:, ::2], torch.ones(7)])
def test_any_tensor_can_be_read(tensor: torch.Tensor) -> None:
    assert probes.read(tensor).dtype == torch.int32


def test_every_turn_times_all_and_of_its_products_the_fastest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def lasting(*seconds: float) -> Callable[[], None]:
        left = iter(seconds)

        def call() -> None:
            nonlocal now
            now += next(left)

        return call

    monkeypatch.setattr(timing, "time", clock(lambda: now))
    monkeypatch.setattr(timing, "PRODUCTS", 2)
    calls = {"eager": lasting(0.1, 3.0, 9.0), "square": lasting(0.1, 0.1, 5.0, 4.0, 6.0, 7.0)}
    assert timing.turns(calls, 2, several=["square"]) == [{"eager": 3, "square": 4}, {"eager": 9, "square": 6}]


def test_a_slow_call_gets_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing, "time", clock(lambda: now[0]))

    def call() -> None:
        now[0] += 30.0

    assert len(timing.turns({"slow": call}, 15)) == timing.LEAST_TURNS


def test_a_share_of_the_ceiling_is_that_of_the_same_turn() -> None:
    ours = subject("kblam dense", elements=100)
    # The machine is three times slower in the second turn and half as fast in the third.
    turns = [{"kblam dense": 2.0 * s, f"{READ}dense": 1.5 * s, f"{PRODUCT}square": s} for s in (1.0, 3.0, 2.0)]
    share = probes.shares([ours], {f"{READ}dense": probe(400), f"{PRODUCT}square": probe(1)}, turns, 4)["kblam dense"]
    assert (share.of_ceiling, share.of_probes, share.ceiling, share.bound) == (0.75, 0.75, 3.0, "read")


@pytest.mark.parametrize("faster", ["square", "16"])
def test_arithmetic_is_held_to_the_faster_product(faster: str) -> None:
    ours = subject("kblam dense", flops=1000)
    probed = {PRODUCT + name: probe(500 if name == faster else 100) for name in ("square", "16")}
    turn = {"kblam dense": 4.0, **dict.fromkeys(probed, 1.0)}
    share = probes.shares([ours], probed, [turn], 4)["kblam dense"]
    assert (share.of_ceiling, share.bound) == (0.5, "product")


def test_the_fastest_known_way_is_the_ceiling_and_slow_probes_are_told() -> None:
    """On a Zen 5 a stream of int8 latents took 55 ms where the kernel takes 12."""
    fast, slow = (subject(name, elements=100, layout="latent int8") for name in ("kblam latent int8", "peer"))
    probed = {f"{READ}latent int8": probe(400), f"{PRODUCT}square": probe(1e9)}
    turn = {"kblam latent int8": 12.0, "peer": 24.0, f"{READ}latent int8": 55.0, f"{PRODUCT}square": 1.0}
    found = probes.shares([fast, slow], probed, [turn], 4)
    assert found["kblam latent int8"].of_ceiling == 1
    assert found["kblam latent int8"].of_probes == pytest.approx(55 / 12)
    assert found["kblam latent int8"].of_probes > probes.FLAGGED
    assert found["peer"].of_ceiling == 0.5, "and so for others that read the same"


def test_int8_products_are_held_to_int8_products() -> None:
    rounded, plain = subject("kblam int8 products", flops=1000), subject("kblam latent", flops=1000)
    probed = {f"{PRODUCT}square": probe(100), f"{PRODUCT}int8": probe(400)}
    turn = {"kblam int8 products": 5.0, "kblam latent": 20.0, **dict.fromkeys(probed, 1.0)}
    found = probes.shares([rounded, plain], probed, [turn], 4)
    assert [share.of_ceiling for share in found.values()] == [0.5, 0.5]


def test_a_product_is_probed_in_float32_too_and_a_slow_one_on_small_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VNNI an int8 product of SIDE takes four seconds, and without AVX-512 one of bfloat16 as long."""
    plain = torch.matmul

    def slow_in_halves(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        time.sleep(2e-3 if a.dtype == torch.bfloat16 else 0)
        return plain(a, b)

    monkeypatch.setattr(torch, "matmul", slow_in_halves)
    monkeypatch.setattr(probes, "SLOW_SECONDS", 1e-3 * (probes.SIDE / probes.SMALL_SIDE) ** 3)
    x = problem_of(SHAPE, "cpu", torch.bfloat16)
    found = probes.probes(SHAPE, subjects(SHAPE, x, ["kblam latent"]), x)
    products = {name.removeprefix(PRODUCT): made.amount for name, made in found.items() if name.startswith(PRODUCT)}
    assert products["square"] == 2.0 * probes.SMALL_SIDE**3
    assert products["square float32"] == 2.0 * probes.SIDE**3
    assert set(products) == {"square", "square float32", "16 float32", "24 float32"}


def test_a_busy_machine_does_not_make_float32_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "SLOW_SECONDS", 0.0)
    x = problem_of(SHAPE, "cpu", torch.float32)
    found = probes.probes(SHAPE, subjects(SHAPE, x, ["kblam latent"]), x)
    assert found[f"{PRODUCT}square"].amount == 2.0 * probes.SIDE**3


def test_what_rounds_is_held_to_the_fastest_product_of_all() -> None:
    rounded = subject("kblam int8 products", flops=1000)
    probed = {f"{PRODUCT}square float32": probe(400), f"{PRODUCT}int8": probe(100)}
    turn = {"kblam int8 products": 5.0, **dict.fromkeys(probed, 1.0)}
    assert probes.shares([rounded], probed, [turn], 4)["kblam int8 products"].of_ceiling == 0.5
