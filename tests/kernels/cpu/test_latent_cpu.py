"""The C++ kernels of latents, for every instruction set of this processor, beyond `test_ops.py`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from kblam_kernels import explain
from kblam_kernels.latent import cpu
from kblam_kernels.latent.absorption import Mixed
from tests.kernels.cases import LONG
from tests.kernels.problems import INF, Problem, absorbed_of, make_latent
from tests.kernels.ways import DTYPES


def mixed(problem: Problem, **changes: Any) -> Mixed:
    """The kernel's results, with fields of the call changed."""
    _, call = problem.call()
    return cpu.mix(call.but(**changes), absorbed_of(call))


def test_which_calls_are_one_call(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("bound", "mix"):
        real = getattr(cpu, name)
        monkeypatch.setattr(cpu, name, lambda *a, name=name, real=real: (taken.append(name), real(*a))[1])
    few, many = make_latent(N=4, T=9, dtype=torch.float32), make_latent(N=5, T=9, dtype=torch.float32)
    weight = few.knowledge.projection.key_weight.mT.contiguous().mT
    gapped = dataclasses.replace(few.knowledge.projection, key_weight=weight)
    for problem in (few, many, few.but(knowledge=dataclasses.replace(few.knowledge, projection=gapped))):
        _, call = problem.call()
        assert cpu.is_one_op(call) == (problem is few)
        problem.run("cpu")
    few.run("reference")
    assert taken == ["bound", "mix", "mix"]


def test_one_call_is_an_op_with_a_fake(library: None) -> None:
    p = make_latent(N=2, dtype=torch.float32, knowledge_range=torch.tensor([[0, 7], [2, 5]], dtype=torch.int32))
    k, projection = p.knowledge, p.knowledge.projection
    tensors = (p.query, p.key, p.value, k.key, k.value, k.norm, None, None, p.knowledge_query)
    weights = tuple(getattr(projection, f.name) for f in dataclasses.fields(projection))
    options = (None, None, p.knowledge_range, 0.25, None, False, "")
    torch.library.opcheck(torch.ops.kblam_kernels.latent_attention_cpu.default, (*tensors, None, *weights, *options))
    hidden = (*tensors[:-1], torch.randn(2, 2, 12), torch.randn(4 * 16, 12))
    torch.library.opcheck(torch.ops.kblam_kernels.latent_attention_cpu.default, (*hidden, *weights, *options))


@pytest.mark.parametrize("name", ["key", "value", "norm"])
def test_what_lies_past_the_filled_rows_is_never_read(name: str, instruction_set: str) -> None:
    problem = make_latent(N=1, M=LONG, dtype=torch.bfloat16, knowledge_range=torch.tensor([[0, 201]]).expand(2, 2))
    k = problem.knowledge
    exact_fit = dataclasses.replace(k, key=k.key[:201], value=k.value[:201], norm=k.norm[:201])
    getattr(k, name)[201:] = float("nan")
    fitted = problem.but(knowledge=exact_fit, knowledge_range=None)
    for ours, theirs in zip(mixed(problem), mixed(fitted), strict=True):
        assert torch.equal(ours, theirs)


def test_a_changed_row_is_seen_at_once(library: None) -> None:
    problem = make_latent(
        N=1, M=40, dtype=torch.bfloat16, knowledge_bias=torch.full((40,), -INF).index_fill(0, torch.tensor(7), 0)
    )
    mixed(problem)
    problem.knowledge.value[7] = 3.0
    after = mixed(problem)
    torch.testing.assert_close(
        after.latent.float(), after.share[..., None].expand(after.latent.shape) * 3, rtol=8e-3, atol=0
    )


@pytest.mark.parametrize("name", ["query", "latent_key", "latent_value", "norm"])
@pytest.mark.parametrize("heads", [2, 24])
def test_nan_is_not_hidden(name: str, heads: int, instruction_set: str) -> None:
    _, call = make_latent(B=1, H=heads, G=1, N=1, M=200, dtype=torch.bfloat16).call()
    absorbed = absorbed_of(call)
    poisoned = (absorbed.query if name == "query" else getattr(call, name)).clone()
    poisoned.view(-1)[-3 if name != "norm" else -1] = float("nan")
    if name == "query":
        absorbed = absorbed._replace(query=poisoned)
    else:
        call = call.but(**{name: poisoned})
    assert cpu.mix(call, absorbed).latent.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_fp8_number_is_read_as_torch_reads_it(dtype: torch.dtype, instruction_set: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)[None]
    problem = make_latent(B=1, H=1, G=1, N=1, M=1, P=256, knowledge_bias=200.0).to(dtype, torch.float8_e4m3fn)
    knowledge = dataclasses.replace(problem.knowledge, value=codes, value_scale=torch.ones(1))
    # The bias leaves nothing to the prompt: the mixed latents are the one latent.
    latent = mixed(problem.but(knowledge=knowledge)).latent
    torch.testing.assert_close(latent.flatten(), codes[0].to(dtype), rtol=0, atol=0, equal_nan=True)


def test_latents_on_the_cpu_are_served_by_the_cpp_kernels(library: None) -> None:
    p = make_latent(dtype=torch.float32)
    explanation = explain(p.query, p.key, p.value, p.knowledge)
    assert explanation.backend == "cpu"
    assert list(explanation.rejected) == ["triton"]
    torch.testing.assert_close(p.run("auto")[0], p.run("reference")[0])
