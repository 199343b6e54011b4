"""Rows of a CPU, on toy shapes: who has one, what is not timed, heads that stand for others, and zero triples."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from kblam.bench import cases, kernels, measured, memory, peers, problems, profiling, subjects, timing
from kblam.bench.composed import composed_latent
from kblam.bench.measured import Run
from kblam.bench.operands import Operands
from kblam.bench.rows import FAILED, MEASURED, Row, with_ratios, with_shares
from kblam.bench.shapes import PHASES, TINY, Model, Shape, of
from kblam_kernels.tools import env

RUN = Run("cpu", torch.float32, compiles=False, turns=1)


def shape_of(phase: str = "decode", triples: int = 70) -> Shape:
    return of(TINY, phase, triples, prefill=6, context=3)


def by_name(found: list[Row]) -> dict[str, Row]:
    return {row.implementation: row for row in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("phase", PHASES)
def test_a_row_for_each_implementation(phase: str, dtype: torch.dtype) -> None:
    found = with_ratios(list(measured.rows(shape_of(phase), dataclasses.replace(RUN, dtype=dtype))))
    assert [row.implementation for row in found] == subjects.names(phase, "cpu")
    for row in found:
        if row.status != MEASURED:
            assert row.implementation in peers.NEEDS_CUDA | peers.COMPILED, row.note
            continue
        assert row.dtype == str(dtype).removeprefix("torch.")
        assert row.seconds > 0 < row.gigabytes_per_second
        assert 0 < row.share_of_ceiling <= 1 + 1e-9, "the fastest known way is the ceiling"
        assert row.share_of_ceiling == pytest.approx(row.ceiling_seconds / row.seconds)
        assert row.bound in ("read", "product")
        assert row.peak_bytes > 0 < row.knowledge_bytes
    best = [row.ratio_to_best_peer for row in found if row.seconds and not row.is_ours]
    assert max(best) == 1


def test_no_triple_at_all_is_a_size_too() -> None:
    found = by_name(list(measured.rows(shape_of(triples=0), RUN)))
    assert {row.status for row in found.values() if row.is_ours} == {MEASURED}
    assert found["sdpa static cache"].seconds > 0
    assert found["kblam latent"].knowledge_bytes == 0


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_flex_is_a_peer_too(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not compiled: that takes most of a minute and changes no number.
    monkeypatch.setattr(peers, "_compiled_flex", lambda: flex_attention)
    run = dataclasses.replace(RUN, compiles=True, chosen=("flex static cache", "flex concat"))
    assert [row.status for row in measured.rows(shape_of(phase), run)] == [MEASURED, MEASURED]


def test_a_wrong_result_is_a_row_without_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subjects.rectangular_attention
    monkeypatch.setattr(subjects, "rectangular_attention", lambda *a, **options: real(*a, **options) * 1.04)
    found = by_name(list(measured.rows(shape_of(), RUN)))
    ours = [row for row in found.values() if row.is_ours]
    assert {row.status for row in ours} == {FAILED}
    assert all("is over" in row.note and row.seconds is None for row in ours), "rounding of int8 hides no such error"
    assert found["eager concat"].seconds > 0


def test_dense_heads_that_do_not_fit_stand_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of()
    assert problems.dense_key_heads(shape, 4) == 2
    monkeypatch.setattr(problems, "MAX_DENSE_BYTES", shape.dense_bytes(2, 4))
    assert problems.dense_key_heads(shape, 4) == 1, "of two, each with two query heads"
    x = problems.problem_of(shape, "cpu", torch.float32)
    assert x.dense.key.shape == (2, 70, 16)
    assert x.operands.query.shape == (1, 2, 1, 16)

    def constant(calls: dict[str, object], repeats: int, **_: object) -> list[dict[str, float]]:
        return [dict.fromkeys(calls, 1.0)]

    monkeypatch.setattr(timing, "turns", constant)
    found = by_name(list(measured.rows(shape, RUN)))
    assert found["eager concat"].seconds == found["kblam dense"].seconds == 2
    assert found["kblam latent"].seconds == found["composed latent"].seconds == 1
    assert found["kblam dense"].knowledge_bytes == shape.dense_bytes(4, 4), "of all heads, as the time is"
    assert "0.5 of the heads" in found["kblam dense"].note
    assert found["kblam latent"].peak_bytes > 0
    assert found["kblam dense"].peak_bytes is None, "that of all heads is not known"


def test_one_key_head_is_always_there() -> None:
    assert problems.dense_key_heads(Shape(TINY, "decode", 1, 1, 4, 10**9), 4) == 1


def test_those_on_a_static_cache_share_one_concatenation() -> None:
    o = problems.problem_of(shape_of(), "cpu", torch.float32).operands
    first, second = o.held(), o.held()
    assert first.keys is second.keys
    where = first.keys.data_ptr()
    del first, second
    assert o.held().keys.data_ptr() in (where, o._held[0]().data_ptr())  # type: ignore[union-attr]
    assert len(o._held) == 2, "nobody holds what nobody uses"


def test_a_call_that_takes_seconds_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that is held against float64 is the one: its time, its memory, and a note that says so."""
    real, calls = peers.PEERS["eager concat"], []

    def eager(o: Operands) -> Callable[[], torch.Tensor]:
        call = real(o)

        def slow() -> torch.Tensor:
            calls.append(None)
            time.sleep(0.5)  # a quick call beside other work may take a tenth of that
            return call()

        return slow

    monkeypatch.setitem(peers.PEERS, "eager concat", eager)
    monkeypatch.setattr(timing, "ONCE_SECONDS", 0.45)
    run = dataclasses.replace(RUN, chosen=("kblam latent", "eager concat"), turns=3)
    found = by_name(list(measured.rows(shape_of(), run)))
    assert len(calls) == 1
    slow, fast = found["eager concat"], found["kblam latent"]
    assert slow.seconds == slow.p90 >= 0.5
    assert slow.peak_bytes > 0 < slow.share_of_ceiling < 0.1
    assert slow.note == "timed once"
    assert fast.note == ""


def test_what_a_compiler_takes_is_no_time_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a row, nor in a suite, nor as the memory of a call."""
    builds = []

    def flex(o: Operands) -> Callable[[], torch.Tensor]:
        call = peers.PEERS["sdpa concat"](o)

        def compiles_at_first() -> torch.Tensor:
            if not builds:
                builds.append(torch.zeros(1000, 1000))
                time.sleep(0.2)
            return call()

        return compiles_at_first

    monkeypatch.setitem(peers.PEERS, "flex concat", flex)
    monkeypatch.setattr(timing, "ONCE_SECONDS", 0.15)
    run = dataclasses.replace(RUN, compiles=True, chosen=("flex concat",))
    (row,) = measured.rows(shape_of(), run)
    assert row.status == MEASURED
    assert row.note == "", "its first call compiles, and is not the one that is timed"
    assert row.seconds < 0.1
    assert row.peak_bytes < 4e6
    builds.clear()
    x = problems.problem_of(shape_of(), "cpu", torch.float32)
    (subject,) = subjects.subjects(shape_of(), x, ["flex concat"])
    assert not measured.gated(subject, x, shape_of(), run).is_timed


def test_a_quick_list_is_in_a_dtype_that_the_processor_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, of_many in ((["avx2"], torch.float32), (["avx512_bf16"], torch.bfloat16)):
        monkeypatch.setattr(env, "cpu", lambda flags=flags: {"flags": flags})
        found = [(case.shape.phase, case.dtype) for case in cases.quick("cpu")]
        assert found == [("decode", torch.bfloat16), ("decode", torch.float32), ("prefill", of_many)]
        assert cases.quick("cuda")[-1].dtype == torch.bfloat16


def test_only_the_chosen_are_measured() -> None:
    chosen = measured.ours_and(["sdpa static cache"], "cpu")
    names = [row.implementation for row in measured.rows(shape_of(), dataclasses.replace(RUN, chosen=chosen))]
    assert [name for name in names if name not in subjects.OURS] == ["sdpa static cache"]


@pytest.mark.parametrize("seconds", [(2.0, 1.0), (1.0, 2.0)])
def test_a_share_over_one_mends_the_ceiling_on_a_gpu(seconds: tuple[float, float]) -> None:
    # The run's own ceilings say that a call takes 1.5 s at least.
    found = with_shares(
        [
            Row("s", "decode", str(n), None, seconds=t, of_matmul_ceiling=0.1, of_read_ceiling=1.5 / t)
            for n, t in enumerate(seconds)
        ]
    )
    shares = {row.seconds: (row.share_of_ceiling, row.share_of_probes) for row in found}
    assert shares == {1.0: (1.0, 1.5), 2.0: (0.5, 0.75)}


def test_each_dtype_has_a_ceiling_of_its_own() -> None:
    # In float32 a row is faster than the run's own product, in bfloat16 none is.
    given = {"float32": (2.0, 1.0), "bfloat16": (0.5, 0.25)}
    found = with_shares(
        [
            Row("s", "prefill", "x", None, dtype, seconds=1 / share, of_matmul_ceiling=share, of_read_ceiling=1e-3)
            for dtype, shares in given.items()
            for share in shares
        ]
    )
    assert [row.share_of_ceiling for row in found] == [1.0, 0.5, 0.5, 0.25]


def test_the_peak_of_a_call_counts_what_lives_at_a_time() -> None:
    x = torch.zeros(1000, 1000)

    def call() -> torch.Tensor:
        first = x + x
        second = first + first
        del first
        return second + second

    assert memory.peak(call, "cpu") == pytest.approx(8e6, rel=0.01)


def test_a_profiler_passes_on_what_others_write_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with profiling.profiled():
        os.write(2, b"USDT: noise\na warning\n")
    assert capfd.readouterr().err == "a warning\n"
    kernels.of([lambda: None], "cpu", count=1)
    assert capfd.readouterr().err == ""


def test_the_bench_needs_torch_alone() -> None:
    code = """
import sys, kblam.bench.measured, kblam.bench.report, kblam.bench.cases, kblam.bench.compare, kblam.bench.ceilings
print(sorted({"transformers", "triton", "typer", "rich", "numpy"} & set(sys.modules) - BEFORE))
"""
    before = "import sys, torch; BEFORE = set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_composed_rival_copies_no_latents() -> None:
    """Nobody who knows the algebra would: 32 copies made it a hundred times as slow on a CPU."""
    x = problems.problem_of(Shape(Model("m", 8, 2, 16, 96), "decode", 1, 1, 4, 4000), "cpu", torch.bfloat16)
    call = composed_latent(x.query, x.key, x.value, x.latents, problems.BIAS)
    assert memory.peak(call, "cpu") < 2 * x.latents.key.nbytes


def test_a_peer_of_ones_own_is_held_and_timed_like_the_others() -> None:
    def wrong(o: Operands) -> subjects.Call:
        return lambda: o.query

    own = {"mine": peers.PEERS["sdpa static cache"], "wrong": wrong}
    found = by_name(list(measured.rows(shape_of(), dataclasses.replace(RUN, own_peers=own))))
    assert found["mine"].seconds > 0
    assert (found["wrong"].status, found["wrong"].seconds) == (FAILED, None)
