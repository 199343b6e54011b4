"""What a device is capable of: measured once and kept, or of the table of cards."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam_kernels import UnsupportedInputError, plan
from kblam_kernels.plan import Device, calibration, device_of, devices, remembered
from kblam_kernels.plan.__main__ import main
from kblam_kernels.plan.devices import SPECIFIED
from tests.kernels.plan.test_plan import GB, LLAMA, RATES


def busy() -> Any:
    raise AssertionError("measured again")


def test_rates_are_measured_once_on_a_machine(tmp_path: Path) -> None:
    """However busy it is at other times."""
    first, again = (RATES, dataclasses.replace(RATES, dense=1.5)), (RATES, RATES)
    assert remembered.remembered("x", lambda: first, on_cpu=False)[0] == first
    rates, source = remembered.remembered("x", busy, on_cpu=False)  # as another process does
    assert rates == first
    assert source.startswith(f"measured once on this machine, see {tmp_path / 'rates'}")
    assert remembered.remembered("x", lambda: again, on_cpu=False, anew=True)[0] == again
    assert remembered.remembered("x", busy, on_cpu=False)[0] == again
    assert remembered.remembered("another device", lambda: first, on_cpu=False)[0] == first


def test_a_plan_of_this_machine_does_not_depend_on_what_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = iter((1.0, 1.0, 0.01, 0.01))
    monkeypatch.setattr(devices, "_measured", lambda *_: dataclasses.replace(RATES, latent=RATES.latent * next(noise)))
    monkeypatch.setattr(devices, "free_memory", lambda device: GB)
    plans = []
    for _ in range(2):
        devices._device.cache_clear()  # another process
        plans.append(str(plan(LLAMA, torch.device("cpu"))))
    assert plans[0] == plans[1]
    assert "measured once on this machine" in plans[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text(""),
        lambda file: file.write_text("[" * 100_000),
        lambda file: file.write_text(file.read_text().replace('"latent": ', '"latent": -')),
        lambda file: file.write_text(file.read_text().replace('"latent": ', '"latent": 1e999, "x": ')),
        lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | {"half": 7})),
        lambda file: file.write_text(file.read_text().replace('"device": "x"', '"device": "y"')),
        lambda file: file.chmod(0o666),
        lambda file: (file.rename(file.with_name("y")), file.symlink_to(file.with_name("y"))),
    ],
    ids=["empty", "nested", "negative", "infinite", "no rates", "another's", "for all to write", "a link"],
)
def test_rates_that_cannot_be_believed_are_measured_anew(damage: Callable[[Path], object], tmp_path: Path) -> None:
    made, again = (RATES, RATES), (dataclasses.replace(RATES, dense=2.5), RATES)
    remembered.remembered("x", lambda: made, on_cpu=False)
    (file,) = (tmp_path / "rates").iterdir()
    damage(file)
    assert remembered.remembered("x", lambda: again, on_cpu=False)[0] == again
    assert remembered.remembered("x", busy, on_cpu=False)[0] == again


def test_rates_that_cannot_be_kept_are_of_this_process(tmp_path: Path) -> None:
    (tmp_path / "rates").write_text("no folder")
    rates, source = remembered.remembered("x", lambda: (RATES, RATES), on_cpu=False)
    assert (rates, source) == ((RATES, RATES), "measured in this process")


def test_the_cpu_is_measured_once_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    device = device_of(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert device.source.startswith("measured once on this machine")
    assert 2**20 < device.memory < 2**50
    for rates in (device.half, device.single):
        # From a slow reference to a large server.
        assert all(1e6 < rate < 1e16 for rate in dataclasses.astuple(rates))
        assert max(rates.latent_bytes, rates.dense_bytes) <= rates.bytes_per_second
    assert device_of(torch.device("cpu")).half is device.half


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_does_not_matter(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines set it to the model's: the kernels take the norms, and as many bytes are read as are counted."""
    made: list[torch.Tensor] = []

    def noted(call: Callable[[], object], device: torch.device) -> float:
        made.append(getattr(call, "__self__", torch.empty(0)))
        call()
        return 1.0

    monkeypatch.setattr(calibration, "_seconds", noted)
    monkeypatch.setattr(calibration, "TRIPLES", 64)
    torch.set_default_dtype(dtype)
    try:
        rates = devices._measured(torch.device("cpu"), torch.float32)
        drawn = calibration._drawn((4,), torch.device("cpu"), torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    assert rates.bytes_per_second == made[-1].numel() * made[-1].element_size() == calibration.READ_BYTES
    assert torch.equal(drawn, calibration._drawn((4,), torch.device("cpu"), torch.float32))


@pytest.mark.parametrize(
    ("waited", "computed", "expected"),
    [
        ({"1": 0.0, "2": 0.0}, 8.0, 10.0),
        ({"1": 7.0, "2": 4.0}, 5.0, 3.0),  # both threads wait for each other at the call's end
        ({"1": 9.9}, 8.0, 4.0),  # most of it between the clock's readings: two threads computed for four seconds each
        ({}, 8.0, 10.0),  # no Linux
    ],
)
def test_what_a_call_waited_for_other_work_is_none_of_its_time(
    waited: dict[str, float], computed: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter((dict.fromkeys(waited, 10**9), {name: int(1e9 * (1 + s)) for name, s in waited.items()}))
    times, used = iter((100.0, 110.0)), iter((50.0, 50.0 + computed))
    monkeypatch.setattr(calibration, "_waits", lambda: next(seen))
    monkeypatch.setattr(
        calibration, "time", SimpleNamespace(perf_counter=lambda: next(times), process_time=lambda: next(used))
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert calibration._undisturbed(lambda: None) == pytest.approx(expected)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not tell what waited")
def test_a_call_beside_other_work_takes_as_long_as_alone() -> None:
    """On one core with another process: half of the time is that one's."""
    core, own = min(os.sched_getaffinity(0)), os.sched_getaffinity(0)

    def computes() -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.1:
            pass

    burn = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE) as other:
        try:
            os.sched_setaffinity(0, {core})
            assert other.stdout is not None
            other.stdout.readline()
            began = time.perf_counter()
            found = calibration._undisturbed(computes)
            seconds = time.perf_counter() - began
        finally:
            os.sched_setaffinity(0, own)
            other.kill()
    assert seconds > 0.13, "it was interrupted"
    assert 0.07 < found < 0.13


def test_what_the_allocator_of_a_gpu_holds_free_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that were freed go to PyTorch's allocator; the driver still counts them as taken."""
    where = torch.device("cuda:1")
    told = {where: {"mem_get_info": (GB, 80 * GB), "memory_reserved": 7 * GB, "memory_allocated": 5 * GB}}
    for name in told[where]:
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: told[device][name])
    assert devices.free_memory(where) == 3 * GB


@pytest.fixture
def gpu_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Device]]:
    """`device_of` where a CUDA device of some name is; what would be measured is made up."""

    def seen(name: str, **options: bool) -> Device:
        devices._device.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(devices, "free_memory", lambda device: GB)
        monkeypatch.setattr(devices, "_measured", lambda device, dtype: RATES)
        return device_of(torch.device("cuda"), **options)

    yield seen
    devices._device.cache_clear()


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA L40S", None),
    ],
)
def test_a_card_is_of_the_table_by_its_whole_name(name: str, row: str | None, gpu_named: Callable[..., Device]) -> None:
    found = gpu_named(name)
    if row is None:
        assert (found.name, found.half) == (name, RATES)
        assert found.source.startswith("measured once on this machine")
    else:
        assert (found.name, found.half) == (SPECIFIED[row].name, SPECIFIED[row].half)
    assert found.has_scratch
    assert found.memory == GB


def test_a_card_of_the_table_can_be_measured(
    gpu_named: Callable[..., Device], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_named("NVIDIA H200", anew=True).source.startswith("measured once on this machine")
    main(["--device", "cuda", "--measure"])
    assert "on NVIDIA H200: 1 GB/s, 1.00 GB free (measured once on this machine" in capsys.readouterr().out
    main(["--device", "cuda"])
    assert "on NVIDIA H200: 4,800 GB/s" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["--device", "h200", "--measure"])
    assert "'h200' is a row of a table; to measure the device that is here, say cuda or cpu" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_here_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--measure"]):
        with pytest.raises(SystemExit, match="2"):
            main(["--device", "cuda", *more])
        assert "device 'cuda' is not here: this torch " in capsys.readouterr().err
    with pytest.raises(UnsupportedInputError, match="say cpu, or a card by its name: a100, h100, h200"):
        device_of(torch.device("cuda", 1))


def test_a_gpu_past_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UnsupportedInputError, match="'cuda:1' is not here: torch finds 1 of this kind, from cuda:0 on"):
        device_of(torch.device("cuda", 1))


@pytest.mark.gpu
@pytest.mark.alone
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured() -> None:
    measured = device_of(torch.device("cuda"), anew=True)
    assert measured.source.startswith("measured once on this machine")
    for rates in (measured.half, measured.single):
        # From a small card to twice a B200, and no kernel further than a tenth from what memory gives.
        assert 1e11 < rates.bytes_per_second < 1.6e13
        assert min(rates.latent_bytes, rates.dense_bytes) > 0.1 * rates.bytes_per_second
        assert min(rates.latent, rates.dense, rates.projection) > 1e11
