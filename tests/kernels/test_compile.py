"""torch.compile makes one graph of every op and layout; what differs between versions of PyTorch shows here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.kernels.problems import evidence_of, make, make_latent
from tests.kernels.ways import STORAGE, stored
from tests.warm import run

CALLS: dict[str, Callable[[], Any]] = {
    "dense": lambda: make(N=5, dtype=torch.float32),
    **{
        f"latent-{stored(storage)}": lambda storage=storage: make_latent(dtype=torch.float32, storage=storage)
        for storage in STORAGE
    },
    "evidence": lambda: evidence_of(make(dtype=torch.float32)),
    "evidence-latent": lambda: evidence_of(make_latent(dtype=torch.float32)),
}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("fresh_compiler")
def test_a_call_is_one_graph(name: str, backend: str, request: pytest.FixtureRequest) -> None:
    if backend == "cpu":
        request.getfixturevalue("library")
    problem = CALLS[name]()
    compiled = torch.compile(lambda: 2 * problem.run(backend)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(), 2 * problem.run(backend)[0])


TWO_OPS = """
import torch

from tests.kernels.problems import evidence_of, make

attention, mass = make(dtype=torch.float32), evidence_of(make(dtype=torch.float32))
compiled = torch.compile(lambda: (attention.run("auto")[0], mass.run("auto")[0]), fullgraph=True, backend="eager")
for found, expected in zip(compiled(), (attention.run("auto")[0], mass.run("auto")[0]), strict=True):
    torch.testing.assert_close(found, expected)
"""


def test_two_ops_are_one_graph_before_either_has_run(warm: None, library: None) -> None:
    """In a process of its own: what serves them is imported while the graph is traced."""
    done = run("-c", TWO_OPS)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("poisoned_memory")
def test_poisoned_memory_may_be_a_leaf() -> None:
    """Inductor makes some, with a GPU."""
    leaf = torch.empty((4, 4), requires_grad=True)
    assert leaf.is_leaf
    assert leaf.isnan().all()
