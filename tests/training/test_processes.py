"""Launches of `accelerate launch`: a sharded base, bfloat16, two processes killed; and what is refused."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from kblam.errors import TrainingError
from kblam.models.signature import signature_of
from kblam.training import material
from kblam.training.checkpoints import checkpoints
from kblam.training.processes import base_device, check_launch, own_device, start
from kblam.training.sharding import shard, share_held
from tests.fakes import HashingEncoder
from tests.models.tiny import EMBEDDING_DIM, tiny_model
from tests.training.conftest import SETTLED, Prepare, Trained, small, trainer_of
from tests.training.curve import losses, same_curve
from tests.training.launch import accelerate_two, start_two
from tests.warm import ended

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Sets what a launch of one process says; accelerate reads it once a process, unless it is reset."""

    def launch(environment: dict[str, str]) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        AcceleratorState._reset_state(reset_partial_state=True)

    yield launch
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_sharded_base_takes_the_same_steps(trained: Trained, cache: Path, tmp_path: Path, warm: None) -> None:
    assert share_held(tiny_model()) == 1
    one, two = trained(finish=True, **SETTLED), tmp_path / "two"
    flags = ["--use_fsdp", "--fsdp_version", "2"]
    settled = (f"{name}={value}" for name, value in SETTLED.items())
    done = accelerate_two(flags, cache, two, "per_device_train_batch_size=2", "finish=1", *settled)
    assert done.returncode == 0, done.stderr
    assert same_curve(losses(one), losses(two))
    held = [json.loads((two / f"process-{rank}.json").read_text())["held"] for rank in range(2)]
    assert all(0.45 < share < 0.55 for share in held)
    assert sum(held) == pytest.approx(1)
    adapters = [load_file(folder / "model.safetensors") for folder in (one, two)]
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, rtol=1e-2, atol=1e-3)


def test_two_processes_that_are_killed_go_on_as_if_they_had_not_been(
    prepared: Prepare, cache: Path, tmp_path: Path, warm: None
) -> None:
    prepared()  # fills the cache
    settings = ["max_steps=20", "per_device_train_batch_size=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    workers = start_two(cache, whole, *settings, **FSDP)
    assert [*map(ended, workers)] == [0, 0]
    workers = start_two(cache, killed, *settings, **FSDP)
    while not checkpoints(killed):
        assert workers[0].is_alive(), "it ended before its first checkpoint"
        time.sleep(0.02)
    for worker in workers:
        worker.kill()
        ended(worker)
    done = checkpoints(killed)[-1][0]
    assert done < 20
    workers = start_two(cache, killed, *settings, "resume=1", **FSDP)
    assert [*map(ended, workers)] == [0, 0]
    assert losses(killed)[-(20 - done) :] == losses(whole)[done:]
    weights = [folder / "checkpoint-20" / "model.safetensors" for folder in (killed, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_processes_wait_as_long_as_the_main_one_encodes(launched: Callable[[dict[str, str]], None]) -> None:
    launched({})
    handler = start("cpu").init_handler
    assert handler is not None
    assert handler.timeout >= timedelta(days=1)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("tied", [True, False])
def test_a_sharded_model_is_the_same_model(tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        logits, signature = model(ids).logits, signature_of(model)
        shard(model, torch.device("cpu"), 1)
        assert signature_of(model) == signature  # before a forward pass too, as attach asks for it
        assert torch.equal(model(ids).logits, logits)
    assert isinstance(model.get_input_embeddings().weight, DTensor) is not tied
    assert all(isinstance(weight, DTensor) for weight in model.get_decoder().layers.parameters())
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied


def test_what_is_quantised_is_not_sharded() -> None:
    model = tiny_model()
    packed = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    model.get_decoder().layers[1].self_attn.q_proj.weight = packed
    with pytest.raises(TrainingError, match=r"cannot shard model.layers.1.self_attn.q_proj.weight .* torch.int8"):
        shard(model, torch.device("cpu"), 2)


def test_one_process_has_nothing_to_shard(prepared: Prepare, tmp_path: Path, launched: Any) -> None:
    launched(FSDP)
    said: list[str] = []
    trainer = trainer_of(prepared, tmp_path, said)
    assert not trainer.is_sharded
    assert said == ["FSDP: there is one process, which holds all of the base"]


SWITCH = "FSDP_CPU_RAM_EFFICIENT_LOADING"  # accelerate's own


def test_a_base_that_is_sharded_is_read_whole_in_every_process(launched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would read it in the first process only, and the others would train over noise."""
    launched({**FSDP, SWITCH: "true"})
    accelerator = start("cpu")
    assert os.environ[SWITCH] == "False"
    assert base_device(accelerator, "cpu") == "cpu"


@pytest.mark.parametrize(
    ("processes", "environment", "device", "base", "own"),
    [
        (1, {}, None, "cuda", "cuda"),
        (1, {}, "cuda:1", "cuda:1", "cuda:1"),
        (1, FSDP, "cuda:1", "cuda:1", "cuda:1"),
        (2, {}, "cuda", "cuda:1", "cuda:1"),
        (2, FSDP, None, "cpu", "cuda:1"),
    ],
)
def test_a_base_that_is_sharded_leaves_the_rest_on_the_gpu(
    processes: int, environment: dict[str, str], device: str | None, base: str, own: str, monkeypatch: Any
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    where = torch.device("cuda" if processes == 1 else "cuda:1")
    accelerator: Any = SimpleNamespace(num_processes=processes, device=where, distributed_type=DistributedType.NO)
    assert (base_device(accelerator, device), own_device(accelerator, device)) == (base, own)


@pytest.mark.parametrize(("encoding", "expected"), [("cuda:1", "cuda:1"), (None, "cpu")])
def test_texts_are_encoded_elsewhere_than_the_base_is_loaded(
    encoding: str | None, expected: str, prepared: Prepare, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    load = lambda name, device: asked.append(device) or HashingEncoder(EMBEDDING_DIM)  # noqa: E731
    monkeypatch.setattr(material, "load_encoder", load)
    material.gather(small(), cache=cache, device="cpu", encoder_device=encoding)
    assert asked == [expected]


def test_bfloat16_by_the_launch(prepared: Prepare, trained: Trained, tmp_path: Path, launched: Any) -> None:
    launched({"ACCELERATE_MIXED_PRECISION": "no"})
    one = trained()
    launched({"ACCELERATE_MIXED_PRECISION": "bf16"})
    half = trainer_of(prepared, tmp_path / "half")
    half.fit()
    single, rounded = losses(one), losses(tmp_path / "half")
    assert single != rounded
    assert all(math.isclose(a, b, rel_tol=0.05) for a, b in zip(single, rounded, strict=True))
    assert {weight.dtype for weight in half.adapter.parameters()} == {torch.float32}
    optimizer = torch.load(tmp_path / "half" / "checkpoint-6" / "optimizer.pt", weights_only=True)
    moments = [state["exp_avg"] for state in optimizer["state"].values()]
    assert {moment.dtype for moment in moments} == {torch.float32}
    launched({"ACCELERATE_MIXED_PRECISION": "no"})
    with pytest.raises(TrainingError, match=r"other settings: mixed_precision \(.* launch\) was 'bf16', is None"):
        trainer_of(prepared, tmp_path / "half").fit(resume=True)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "does not serve --use_deepspeed; launch it with --multi_gpu"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "does not serve --use_megatron_lm"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "does not serve --use_parallelism_config"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "does not serve --mixed_precision fp16, .*; use bf16, or no"),
        ({"ACCELERATE_USE_FSDP": "true"}, "asks for FSDP 1, .* version 2 only; pass --fsdp_version 2"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "pass --fsdp_offload_params false"),
        ({**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "pass --fsdp_activation_checkpointing false"),
        ({**FSDP, "FSDP_IGNORED_MODULES": "head"}, "cannot ignore 'head'; leave fsdp_ignored_modules out"),
    ],
)
def test_what_a_launch_asks_for_and_does_not_get_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        check_launch(environment)


@pytest.mark.parametrize("environment", [{}, FSDP, {**FSDP, "ACCELERATE_MIXED_PRECISION": "bf16"}])
def test_what_a_launch_asks_for_and_gets(environment: dict[str, str]) -> None:
    check_launch(environment)
