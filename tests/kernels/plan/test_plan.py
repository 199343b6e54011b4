"""The planner: costs by hand, what memory and pins allow, where the crossover lies, what it says."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import subprocess
import sys
from typing import Any

import pytest

from kblam_kernels import UnsupportedInputError, plan
from kblam_kernels.common.splits import GROUP
from kblam_kernels.knowledge import PIECE_BYTES
from kblam_kernels.latent.tiles import SCRATCH_BYTES
from kblam_kernels.plan import Device, Rates, Workload
from kblam_kernels.plan.__main__ import main
from kblam_kernels.plan.cost import cost_of
from kblam_kernels.plan.devices import SPECIFIED
from kblam_kernels.plan.workload import MODELS

GB = 10**9
# 1 GB/s and 10 GFLOP/s, so that costs can be computed in the head.
RATES = Rates(bytes_per_second=1e9, latent=1e10, dense=1e10, projection=2e10)
DEVICE = Device("a device", half=RATES, single=dataclasses.replace(RATES, latent=5e9), memory=GB, source="made up")
SHAPE = Workload(triples=1000, width=100, num_heads=4, head_dim=25, layers=3)
LLAMA = Workload(10_000, 384, 32, 128, layers=11)


def test_what_is_held() -> None:
    assert SHAPE.latent_bytes == 1000 * (2 * 100 * 2 + 4)
    assert SHAPE.dense_layer_bytes == 1000 * 2 * 4 * 25 * 2
    assert SHAPE.dense_bytes == 3 * SHAPE.dense_layer_bytes
    quantised = dataclasses.replace(SHAPE, latent_size=1)
    assert quantised.latent_bytes == 1000 * (2 * 100 + 12)


def test_costs_by_hand() -> None:
    latent = cost_of("latent", SHAPE, DEVICE, 2)
    assert latent.bytes == 404_000 + 2 * 4 * 25 * 100 * 2
    assert latent.operations == 4 * 2 * 4 * 100 * 1025
    assert latent.seconds == pytest.approx(latent.bytes / 1e9)
    dense = cost_of("dense", SHAPE, DEVICE, 2000)
    assert dense.operations == 4 * 2000 * 4 * 25 * 1000
    assert dense.seconds == pytest.approx(dense.operations / 1e10)
    made = cost_of("materialise", SHAPE, DEVICE, 2000)
    assert made.operations == dense.operations + 4 * 1000 * 4 * 25 * 100
    assert made.seconds == pytest.approx(dense.seconds + 4 * 1000 * 4 * 25 * 100 / 2e10)
    # A kernel that gets through less than memory gives is what bounds.
    slow = dataclasses.replace(DEVICE, half=dataclasses.replace(RATES, latent_bytes=1e8, dense_bytes=2e8))
    assert cost_of("latent", SHAPE, slow, 2).seconds == pytest.approx(latent.bytes / 1e8)
    assert cost_of("dense", SHAPE, slow, 1).seconds == pytest.approx(SHAPE.dense_layer_bytes / 2e8)
    # Float32 has rates of its own.
    single = dataclasses.replace(SHAPE, element_size=4)
    assert cost_of("latent", single, DEVICE, 500).seconds == pytest.approx(4 * 500 * 4 * 100 * 1025 / 5e9)


@pytest.mark.parametrize(
    ("triples", "prefill"), [(10_000, "dense"), (100_000, "materialise"), (1_000_000, "materialise")]
)
@pytest.mark.parametrize("device", SPECIFIED)
def test_a_gpu_decodes_from_latents_and_prefills_as_memory_allows(device: str, triples: int, prefill: str) -> None:
    made = plan(dataclasses.replace(LLAMA, triples=triples), device)
    assert (made.decode, made.prefill) == ("latent", prefill)
    assert made.holds_latents
    assert made.holds_dense == (prefill == "dense")
    assert made.held_bytes == made.workload.latent_bytes + (made.workload.dense_bytes if prefill == "dense" else 0)


def test_partial_sums_of_a_gpu_cost_bytes_and_memory() -> None:
    gpu = dataclasses.replace(DEVICE, has_scratch=True)
    # 1,000 tokens are 32 splits of 32: 100 sums, a maximum and a total of each, for four heads in float32.
    each = 4 * 4 * 32 * 102
    for queries in (1, 2):
        with_scratch, without = (cost_of("latent", SHAPE, device, queries) for device in (gpu, DEVICE))
        assert with_scratch.bytes == without.bytes + 2 * queries * each
        assert (with_scratch.memory, without.memory) == (queries * each, 0)
    each //= GROUP  # of many queries
    at_once = SCRATCH_BYTES // each
    many = cost_of("latent", SHAPE, gpu, 2 * at_once + 1)
    assert many.memory == at_once * each
    weights = 2 * 4 * 25 * 100 * 2
    assert many.bytes == 3 * SHAPE.latent_bytes + weights + 2 * (2 * at_once + 1) * each, "three blocks"
    assert cost_of("dense", SHAPE, gpu, 2).memory == SHAPE.dense_bytes
    # Keys and values of one layer, and the latents that they are made of.
    assert cost_of("materialise", SHAPE, gpu, 2).memory == SHAPE.dense_layer_bytes + 2 * 1000 * 100 * 2


def test_materialising_takes_the_memory_of_a_piece() -> None:
    million = dataclasses.replace(LLAMA, triples=1_000_000)
    cost = cost_of("materialise", million, SPECIFIED["a100"], 512)
    assert PIECE_BYTES < cost.memory < 1.1 * PIECE_BYTES
    rows = 2 * 1_000_000 * 384 * 2
    assert cost.bytes == million.latent_bytes + 2 * rows + 2 * million.dense_layer_bytes


def test_scratch_that_does_not_fit_is_not_taken() -> None:
    made = plan(LLAMA, SPECIFIED["a100"].with_memory(300 * 10**6))
    assert (made.decode, made.prefill) == ("latent", "latent")
    assert "keys and values made at a time are 179 MB, and 300 MB are free" in str(made)
    # Of many queries the partial sums take 134 MB, of one 6 MB.
    made = plan(LLAMA, SPECIFIED["a100"].with_memory(200 * 10**6))
    assert (made.decode, made.prefill) == ("latent", "latent")
    assert "  prefill, 512 new tokens: latent (none fits; it needs the least memory)\n" in str(made)
    assert "partial sums of attention to latents are 134 MB, and 200 MB are free, of which they may" in str(made)
    assert "  decode, 1 new token: latent\n" in str(made)
    with pytest.raises(UnsupportedInputError, match=r"'latent' is pinned for prefill .* 134 MB, and 100 MB are"):
        plan(LLAMA, SPECIFIED["a100"].with_memory(10**8), pin="prefill=latent")
    # The keys and values of few triples take less than that.
    few = dataclasses.replace(LLAMA, triples=1000)
    assert plan(few, SPECIFIED["a100"].with_memory(10**8)).prefill == "materialise"


def test_the_crossover_is_the_least_number_that_gains() -> None:
    made = plan(LLAMA, "a100")
    assert made.crossover is not None
    for queries, wins in ((made.crossover - 1, False), (made.crossover, True)):
        costs = [cost_of(path, LLAMA, made.device, queries).seconds for path in (made.prefill, made.decode)]
        assert (costs[0] < costs[1]) == wins
    assert made.path(made.crossover - 1) == "latent"
    assert made.path(made.crossover) == "dense"


@pytest.mark.parametrize("batch", [1, 8, 32, 128, 4096])
@pytest.mark.parametrize("triples", [10_000, 1_000_000])
def test_one_new_token_is_decode_whatever_the_batch(batch: int, triples: int) -> None:
    made = plan(dataclasses.replace(LLAMA, triples=triples, batch=batch), "a100")
    assert made.path(1) == made.decode != "materialise"


@pytest.mark.parametrize("prefill", [1, 2, 4, 16, 512, 100_000])
@pytest.mark.parametrize("batch", [1, 2, 8, 64])
@pytest.mark.parametrize("model", MODELS)
def test_every_length_takes_the_cheaper_path(model: str, batch: int, prefill: int) -> None:
    """Also where attention to latents folds, and costs less than with fewer tokens."""
    for device, triples, width in itertools.product([*SPECIFIED, DEVICE], [100, 5000, 20_000], [384, 1024]):
        workload = MODELS[model].workload(triples, width=width, batch=batch, prefill_tokens=prefill)
        made = plan(workload, device)
        assert made.path(1) == made.decode
        assert made.path(prefill) == made.prefill
        if prefill > 1:
            assert (made.crossover is None) == (made.decode == made.prefill)
        lengths = {*range(2, 50), 127, 1000, 65_536, 200_000} if made.crossover else set()
        for tokens in sorted(lengths):
            seconds = {
                p: cost_of(p, workload, made.device, batch * tokens).seconds for p in (made.decode, made.prefill)
            }
            assert seconds[made.path(tokens)] == min(seconds.values()), (triples, width, made.device.name, tokens)


def test_it_says_which_lengths_take_which_path() -> None:
    few = MODELS["llama-3-8b"].workload(5000, width=1024, batch=2, prefill_tokens=4)
    made = plan(few, "h200")
    assert [made.path(tokens) for tokens in (1, 2, 4, 5, 6, 7, 10**6)] == [
        *("latent", "dense", "dense", "latent", "latent", "dense", "dense")
    ]
    told = "latent for one new token a row, dense below 5, latent below 7, dense from there on; holds 922 MB"
    assert str(made).splitlines()[-1] == told


@pytest.mark.parametrize(
    "pin", ["decode=latent", "decode=dense", "prefill=latent", "prefill=dense", "prefill=materialise"]
)
@pytest.mark.parametrize("memory", [10**7, 10**8, GB, 100 * GB])
@pytest.mark.parametrize("triples", [100, 20_000, 300_000])
def test_a_plan_follows_its_own_choice_of_a_phase(pin: str, memory: int, triples: int) -> None:
    """Whatever a pin or the memory says, and the costs do not."""
    for shape, latent_size in itertools.product((LLAMA, SHAPE), (2, 1)):
        workload = dataclasses.replace(shape, triples=triples, latent_size=latent_size)
        for device in (SPECIFIED["a100"].with_memory(memory), DEVICE.with_memory(memory)):
            for given in ("auto", pin):
                with contextlib.suppress(UnsupportedInputError):  # the memory does not allow the pin
                    made = plan(workload, device, pin=given)
                    assert made.path(1) == made.decode
                    assert made.path(workload.prefill_tokens) == made.prefill


def test_a_model_narrower_than_its_latents_decodes_from_dense() -> None:
    assert plan(dataclasses.replace(SHAPE, num_heads=1), DEVICE).decode == "dense"


def test_an_adapter_without_latents_and_no_triples() -> None:
    stiff = dataclasses.replace(LLAMA, absorbable=False)
    for memory in (64 * GB, GB):
        made = plan(stiff, SPECIFIED["a100"].with_memory(memory))
        assert (made.decode, made.prefill, made.holds_latents) == ("dense", "dense", False)
    assert plan(dataclasses.replace(LLAMA, triples=0), "a100").held_bytes == 0


def test_quantised_latents_are_not_joined_by_dense_copies() -> None:
    made = plan(dataclasses.replace(LLAMA, latent_size=1), "h200")
    assert (made.decode, made.prefill) == ("latent", "materialise")


@pytest.mark.parametrize(
    ("pin", "decode", "prefill"),
    [
        ("latent", "latent", "latent"),
        ("dense", "dense", "dense"),
        ("materialise", "latent", "materialise"),
        ("decode=dense", "dense", "dense"),
        ("prefill=latent", "latent", "latent"),
        ("decode=dense, prefill=materialise", "dense", "materialise"),
    ],
)
def test_pins(pin: str, decode: str, prefill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(LLAMA, "a100", pin=pin)
    assert (made.decode, made.prefill) == (decode, prefill)
    assert "(pinned)" in str(made)
    monkeypatch.setenv("KBLAM_PLAN", pin)
    assert plan(LLAMA, "a100") == made
    monkeypatch.setenv("KBLAM_PLAN", "latent")
    assert plan(LLAMA, "a100", pin=pin) == made, "the argument goes first"


def test_pinned_phases_go_by_the_phase_and_not_by_the_number_of_tokens() -> None:
    made = plan(LLAMA, "a100", pin="decode=latent,prefill=dense")
    assert made.path(1) == "latent"
    assert made.path(2) == "dense"
    assert str(made).splitlines()[-1].startswith("latent for one new token a row, dense for more; holds ")


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("fast", "pin='fast' is not understood; give auto, latent, dense, materialise, or"),
        ("encode=latent", "pin='encode=latent' is not understood"),
        ("decode=", "is not understood"),
    ],
)
def test_an_unknown_pin_is_refused(pin: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedInputError, match=message):
        plan(LLAMA, "a100", pin=pin)
    monkeypatch.setenv("KBLAM_PLAN", pin)
    with pytest.raises(UnsupportedInputError, match="KBLAM_PLAN="):
        plan(LLAMA, "a100")


def test_a_pin_that_cannot_be_raises_and_does_not_fall_back() -> None:
    with pytest.raises(UnsupportedInputError, match=r"'dense' is pinned for .*1\.80 GB, and 1\.00 GB are free"):
        plan(LLAMA, DEVICE, pin="dense")
    with pytest.raises(UnsupportedInputError, match=r"'latent' is pinned for .* has no latents"):
        plan(dataclasses.replace(LLAMA, absorbable=False), "a100", pin="latent")


@pytest.mark.parametrize("size", [{"batch": 2**62}, {"prefill_tokens": 2**62}], ids=["batch", "prompt"])
def test_any_size_has_a_plan(size: dict[str, Any]) -> None:
    """More queries than a sequence of Python may have."""
    made = plan(Workload(100_000, 384, 32, 128, layers=11, **size), "a100")
    assert made.path(size.get("prefill_tokens", 512)) == made.prefill == "materialise"


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UnsupportedInputError, match="head_dim must be at least 1; got 0"):
        dataclasses.replace(SHAPE, head_dim=0)
    none_of_them: list[Any] = [1.5, "many", float("nan")]
    for size in none_of_them:
        with pytest.raises(UnsupportedInputError, match=f"triples must be a whole number; got {size!r}"):
            dataclasses.replace(SHAPE, triples=size)
    with pytest.raises(UnsupportedInputError, match=r"batch must be below 2\*\*63"):
        dataclasses.replace(SHAPE, batch=2**63)
    with pytest.raises(UnsupportedInputError, match="triples must be at least 0; got -1"):
        dataclasses.replace(SHAPE, triples=-1)
    with pytest.raises(UnsupportedInputError, match="device 'abacus' is not one of cpu, cuda, a100, h100, h200"):
        plan(SHAPE, "abacus")


def test_it_says_why() -> None:
    text = str(plan(LLAMA, SPECIFIED["a100"]))
    assert text.splitlines()[0] == (
        "plan for 10,000 triples, 11 layers of 32 heads x 128, latents of 384 x 2 bytes, batch 1"
    )
    assert "on NVIDIA A100-SXM4-80GB: 2,039 GB/s, 80.00 GB free (public specification" in text
    assert "  decode, 1 new token: latent\n" in text
    assert "  prefill, 512 new tokens: dense\n" in text
    assert text.count("ms a layer") == 5
    assert "new tokens a row, dense from there on; holds 1.82 GB" in text


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "llama-3-8b", "--triples", "100000", "--device", "a100", "--batch", "8"])
    printed = capsys.readouterr().out
    assert printed.startswith("Llama-3-8B: plan for 100,000 triples, 11 layers of 32 heads x 128")
    assert "63.94 GB free" in printed, "the model's weights are taken off"
    with pytest.raises(SystemExit, match="2"):
        main(["--device", "a100", "--pin", "fast"])
    assert "pin='fast' is not understood" in capsys.readouterr().err


def test_the_command_takes_the_length_of_a_prompt_and_the_width_of_a_latent(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--device", "a100", "--prefill", "300", "--width", "768"])
    printed = capsys.readouterr().out
    assert "latents of 768 x 2 bytes" in printed
    assert "  prefill, 300 new tokens: " in printed
    main(["--device", "a100"])
    printed = capsys.readouterr().out
    assert "latents of 384 x 2 bytes" in printed
    assert "  prefill, 512 new tokens: " in printed


def test_the_import_measures_nothing() -> None:
    code = (
        "import kblam_kernels; from kblam_kernels.plan import devices; assert not devices._device.cache_info().misses"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
