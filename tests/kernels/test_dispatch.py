"""Which backend serves, why not the others, and that an explicit request never falls back."""

from __future__ import annotations

import logging

import pytest
import torch

from kblam_kernels import BackendUnavailableError, DenseKnowledge, UnsupportedInputError, dispatch, explain
from kblam_kernels.dispatch import Backend, Explanation, Request
from tests.kernels.problems import Problem, make

CALL = make(dtype=torch.float32)


def request(**changes: object) -> Request:
    fields = {
        "dtype": torch.bfloat16,
        "device": torch.device("cuda"),
        "head_dim": 128,
        "last_dim_contiguous": True,
        "by_name": False,
    }
    return Request(**{**fields, **changes})  # type: ignore[arg-type]


def verifier(name: str, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", True)
    return next(backend for backend in dispatch.BACKENDS if backend.name == name)


def explained(problem: Problem, backend: str = "auto") -> Explanation:
    knowledge = DenseKnowledge(problem.knowledge_key, problem.knowledge_value)
    return explain(problem.query, problem.key, problem.value, knowledge, problem.knowledge_query, backend=backend)


def test_the_plain_pytorch_backend_is_last_and_serves_everything() -> None:
    assert [backend.name for backend in dispatch.BACKENDS][-1] == "reference"
    everything = request(dtype=torch.float64, head_dim=1000, last_dim_contiguous=False)
    assert dispatch.BACKENDS[-1].verify(everything) is None


def test_triton_is_preferred_where_it_can_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dispatch.BACKENDS[0].name == "triton"
    assert verifier("triton", monkeypatch).verify(request()) is None
    assert dispatch.explain_request(lambda by_name: request(), "auto") == Explanation("triton", {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": torch.device("cpu")}, "tensors are on cpu"),
        ({"dtype": torch.float64}, "torch.float64"),
        ({"head_dim": 257}, "head_dim 257"),
        ({"last_dim_contiguous": False}, "not contiguous"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_triton_says_why_not(changes: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    said = verifier("triton", monkeypatch).verify(request(**changes))
    assert said is not None
    assert reason in said


def test_triton_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", False)
    said = dispatch.BACKENDS[0].verify(request())
    assert said is not None
    assert "kblam-kernels[triton]" in said


@pytest.mark.parametrize(
    ("interpret", "by_name", "serves"), [("1", True, True), ("1", False, False), ("0", True, False)]
)
def test_the_interpreter_serves_cpu_only_by_name(
    interpret: str, by_name: bool, serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    said = verifier("triton", monkeypatch).verify(request(device=torch.device("cpu"), by_name=by_name))
    assert (said is None) == serves


def test_explain_on_this_machine_names_every_rejection() -> None:
    explanation = explained(CALL)
    names = [backend.name for backend in dispatch.BACKENDS]
    assert explanation.backend in names
    # Those before it in the list, each with its reason; those after it were not asked.
    assert list(explanation.rejected) == names[: names.index(explanation.backend)]
    lines = [f"  not {name}: {reason}" for name, reason in explanation.rejected.items()]
    assert str(explanation).splitlines() == [f"backend: {explanation.backend}", *lines]
    assert explanation.rejected["triton"]


def test_explain_of_a_backend_that_cannot_serve_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", True)
    explanation = explained(CALL.to(torch.float64), backend="triton")
    assert explanation.backend is None
    assert str(explanation).startswith("backend: none")
    # The same tensors, so the same reason, as the call that raises.
    with pytest.raises(BackendUnavailableError) as raised:
        CALL.to(torch.float64).run(backend="triton")
    assert explanation.rejected["triton"] in str(raised.value)


def test_a_backend_asked_for_by_name_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", True)
    with pytest.raises(BackendUnavailableError, match=r"'triton' cannot serve this call: tensors are on cpu"):
        CALL.run(backend="triton")


def test_the_environment_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("KBLAM_BACKEND", "triton")
    with pytest.raises(BackendUnavailableError, match="triton"):
        CALL.run(backend="auto")


def test_the_environment_decides_only_for_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_BACKEND", "triton")
    assert torch.equal(CALL.run(backend="reference")[0], CALL.run(backend="reference")[0])
    assert dispatch.requested("reference") == "reference"
    assert dispatch.requested("auto") == "triton"
    monkeypatch.setenv("KBLAM_BACKEND", "")
    assert dispatch.requested("auto") == "auto"


@pytest.mark.parametrize("where", ["backend", "KBLAM_BACKEND"])
def test_an_unknown_name_is_refused_with_the_known_ones(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "KBLAM_BACKEND":
        monkeypatch.setenv(where, "tritn")
    with pytest.raises(UnsupportedInputError, match=rf"{where}='tritn' is not one of auto, triton, .*reference"):
        CALL.run(backend="tritn" if where == "backend" else "auto")


def test_a_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    dispatch._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="kblam_kernels"):
        for _ in range(3):
            CALL.run(backend="auto")
    assert [record.getMessage() for record in caplog.records] == [str(explained(CALL))]


def test_the_chosen_backend_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(query: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full_like(query, 7.0), torch.zeros(query.shape[:3])

    first = Backend("first", lambda request: "broken today", lambda: forward)
    second = Backend("second", lambda request: None, lambda: forward)
    monkeypatch.setattr(dispatch, "BACKENDS", (first, second, *dispatch.BACKENDS))
    dispatch.forward_of.cache_clear()
    try:
        assert (CALL.run(backend="auto")[0] == 7).all()
        assert explained(CALL).rejected == {"first": "broken today"}
        with pytest.raises(BackendUnavailableError, match="'first' cannot serve this call: broken today"):
            CALL.run(backend="first")
    finally:
        dispatch.forward_of.cache_clear()
