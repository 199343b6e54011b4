"""Which backend serves, every reason why not the others, and that an explicit request never falls back."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from kblam_kernels import BackendUnavailableError, UnsupportedInputError, explain, rectangular_attention
from kblam_kernels.common import dispatch
from kblam_kernels.common.call import Saved
from kblam_kernels.common.dispatch import Backend, Explanation, Reference
from kblam_kernels.common.launch import recording
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.latent.op import latent_attention
from kblam_kernels.tools.cases import dense_call
from tests.kernels.problems import Problem, make, make_latent

CALL = make(dtype=torch.float32)
TRITON, CPU, REFERENCE = dense_attention.backends


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton installed, its interpreter off, nothing asked for."""
    for variable in ("KBLAM_BACKEND", "TRITON_INTERPRET", "KBLAM_TILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", True)


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Makes tensors without memory those of a CUDA device of a compute capability."""

    def make_one(major: int, minor: int) -> None:
        monkeypatch.setattr(DenseCall, "leading", property(lambda call: OnGpu(call.query)))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))

    return make_one


class OnGpu:
    """A tensor that says it is on a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype, self.shape, self.device = tensor.dtype, tensor.shape, torch.device("cuda")


def call_of(dtype: torch.dtype = torch.bfloat16, D: int = 128) -> DenseCall:
    return dense_call(dtype, D, 1)


def explained(problem: Problem, backend: str = "auto") -> Explanation:
    return explain(*problem.arguments()[0], backend=backend)


@pytest.mark.parametrize("backends", [dense_attention.backends, latent_attention.backends, evidence_mass.backends])
def test_every_op_has_the_same_order_and_ends_with_plain_pytorch(backends: tuple[Backend[Any], ...]) -> None:
    assert [backend.name for backend in backends] == ["triton", "cpu", "reference"]


def test_plain_pytorch_serves_everything() -> None:
    gapped = call_of(torch.float64, 1000)
    assert REFERENCE.reasons(gapped.but(query=gapped.query.mT)) == []


def test_triton_is_preferred_where_it_can_serve(a_gpu: Callable[[int, int], None]) -> None:
    a_gpu(9, 0)
    assert TRITON.reasons(call_of()) == []
    assert dense_attention.explain(call_of(), "auto") == Explanation("triton", {})


@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ((7, 5), r"compute capability 7\.5 is below 8\.0"),
        ((10, 0), "compute capability 10.0: no tile"),
        ((11, 0), "11.0"),
    ],
)
def test_a_gpu_that_no_tile_was_compiled_for_is_left_to_plain_pytorch(
    capability: tuple[int, int], reason: str, a_gpu: Callable[[int, int], None]
) -> None:
    a_gpu(*capability)
    choice = dense_attention.explain(call_of(), "auto")
    assert choice.backend == "reference"
    with pytest.raises(BackendUnavailableError, match=reason):
        dense_attention.choose(call_of(), "triton")


@pytest.mark.parametrize(
    ("dtype", "D", "gapped", "reasons"),
    [
        (torch.bfloat16, 128, False, ["tensors are on meta"]),
        (torch.float64, 128, False, ["tensors are on meta", "torch.float64"]),
        (torch.bfloat16, 258, True, ["tensors are on meta", "head_dim 258 is over 256", "is not contiguous"]),
        (torch.float64, 258, True, ["tensors are on meta", "head_dim 258", "torch.float64", "is not contiguous"]),
    ],
)
def test_triton_tells_every_reason(dtype: torch.dtype, D: int, gapped: bool, reasons: list[str]) -> None:
    call = call_of(dtype, D)
    call = call.but(key=call.key.mT.contiguous().mT) if gapped else call
    told = TRITON.reasons(call)
    assert len(told) == len(reasons)
    assert all(expected in said for expected, said in zip(reasons, told, strict=True))
    assert dense_attention.explain(call, "triton").rejected == {"triton": "; ".join(told)}


def test_the_cpp_kernels_tell_every_reason() -> None:
    told = CPU.reasons(call_of(torch.float64, 15))
    assert [said.split(" ")[0] for said in told] == ["tensors", "head_dim", "dtype"]


def test_triton_without_its_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, a_gpu: Callable[[int, int], None]
) -> None:
    a_gpu(8, 0)
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", False)
    (said,) = TRITON.reasons(call_of())
    assert "kblam-kernels[triton]" in said


@pytest.mark.parametrize(
    ("interpret", "by_name", "serves"), [("1", True, True), ("1", False, False), ("0", True, False)]
)
def test_the_interpreter_serves_cpu_only_by_name(
    interpret: str, by_name: bool, serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    assert (TRITON.reasons(CALL.call()[1], by_name=by_name) == []) == serves


def test_explain_on_this_machine_names_every_rejection() -> None:
    explanation = explained(CALL)
    names = [backend.name for backend in dense_attention.backends]
    assert explanation.backend in names
    # Those before it in the list, each with its reasons; those after it were not asked.
    assert list(explanation.rejected) == names[: names.index(explanation.backend)]
    lines = [f"  not {name}: {reason}" for name, reason in explanation.rejected.items()]
    assert str(explanation).splitlines() == [f"backend: {explanation.backend}", *lines]
    assert explanation.rejected["triton"]


@pytest.mark.parametrize("maker", [make, make_latent], ids=["dense", "latent"])
def test_explain_of_a_backend_that_cannot_serve_has_its_reasons(maker: Callable[..., Problem]) -> None:
    problem = maker(dtype=torch.float64)
    explanation = explained(problem, backend="triton")
    assert explanation.backend is None
    assert str(explanation).startswith("backend: none")
    # The same tensors, so the same reasons, as the call that raises.
    with pytest.raises(BackendUnavailableError) as raised:
        problem.run(backend="triton")
    assert explanation.rejected["triton"] in str(raised.value)
    assert "; " in explanation.rejected["triton"]


def test_a_backend_asked_for_by_name_never_falls_back() -> None:
    with pytest.raises(BackendUnavailableError, match=r"'triton' cannot serve this call: tensors are on cpu"):
        CALL.run(backend="triton")


def test_the_environment_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_BACKEND", "triton")
    with pytest.raises(BackendUnavailableError, match="triton"):
        CALL.run(backend="auto")


def test_the_environment_decides_only_for_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_BACKEND", "triton")
    CALL.run(backend="reference")
    assert dispatch.requested("reference", dense_attention.backends) == "reference"
    assert dispatch.requested("auto", dense_attention.backends) == "triton"
    monkeypatch.setenv("KBLAM_BACKEND", "")
    assert dispatch.requested("auto", dense_attention.backends) == "auto"


@pytest.mark.parametrize("where", ["backend", "KBLAM_BACKEND"])
def test_an_unknown_name_is_refused_with_the_known_ones(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "KBLAM_BACKEND":
        monkeypatch.setenv(where, "tritn")
    with pytest.raises(UnsupportedInputError, match=rf"{where}='tritn' is not one of auto, triton, .*reference"):
        CALL.run(backend="tritn" if where == "backend" else "auto")


def test_a_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    dispatch.log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="kblam_kernels"):
        for _ in range(3):
            CALL.run(backend="auto")
    assert [record.getMessage() for record in caplog.records] == [str(explained(CALL))]


class Broken(Backend[DenseCall]):
    name = "broken"

    def reasons(self, call: DenseCall, *, by_name: bool = False) -> list[str]:
        return ["broken today", "and tomorrow"]


class Sevens(Backend[DenseCall]):
    name = "sevens"

    def reasons(self, call: DenseCall, *, by_name: bool = False) -> list[str]:
        return []

    def forward(self, call: DenseCall) -> tuple[torch.Tensor, ...]:
        return torch.full_like(call.query, 7.0), torch.zeros(call.query.shape[:3])


def test_the_chosen_backend_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_attention, "backends", (Broken(), Sevens(), *dense_attention.backends))
    assert (CALL.run(backend="auto")[0] == 7).all()
    assert explained(CALL).rejected == {"broken": "broken today; and tomorrow"}
    with pytest.raises(BackendUnavailableError, match="'broken' cannot serve this call: broken today; and tomorrow"):
        CALL.run(backend="broken")


def test_a_backward_is_chosen_apart_from_the_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(Sevens):
        name = "doubled"

        def backward_reasons(self, call: DenseCall) -> list[str]:
            return []

        def backward(self, call: DenseCall, saved: Saved) -> dict[str, torch.Tensor]:
            return {name: torch.full_like(getattr(call, name), 2.0) for name in saved.wanted}

    monkeypatch.setattr(dense_attention, "backends", (Broken(), Doubled(), Sevens()))
    assert all((gradient == 2).all() for gradient in CALL.gradients(backend="sevens"))


def test_a_backward_without_a_tile_is_plain_pytorchs_and_the_log_says_so(
    a_gpu: Callable[[int, int], None], caplog: pytest.LogCaptureFixture
) -> None:
    a_gpu(8, 0)
    dispatch.log_once.cache_clear()
    caplog.set_level("INFO", "kblam_kernels")
    chosen = {}
    for dtype, D in ((torch.bfloat16, 64), (torch.bfloat16, 128), (torch.bfloat16, 256), (torch.float32, 64)):
        with recording("sm_80"):
            call = call_of(dtype, D)
            saved = Saved(call.empty(), call.empty(), call.DIFFERENTIABLE, "triton")
            chosen[dtype, D] = dense_attention.differentiating(call, saved).name
    assert list(chosen.values()) == ["triton", "triton", "reference", "reference"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, "once for each reason"
    assert all(one.startswith("backward of dense_attention: backend: reference\n  not triton: ") for one in told)


def test_no_knowledge_is_explained_too() -> None:
    assert explain(CALL.query, CALL.key, CALL.value).backend is not None
    rectangular_attention(CALL.query, CALL.key, CALL.value)


def test_a_backend_that_has_served_is_copied_and_sent_without_its_module() -> None:
    backend = Reference[DenseCall]("kblam_kernels.dense.reference")
    served = backend.serving(cast(DenseCall, None))
    for again in (copy.deepcopy(backend), pickle.loads(pickle.dumps(backend))):
        assert again.module == backend.module
        assert again.serving(cast(DenseCall, None)) is served
