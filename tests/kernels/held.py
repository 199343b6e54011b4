"""The one question asked of every backend: is it as near to float64 as `tests.tolerances` allows?"""

from __future__ import annotations

import torch

from tests import tolerances
from tests.kernels.cases import Case, on
from tests.kernels.problems import Problem


def hold(case: Case, backend: str, dtype: torch.dtype, device: str = "cpu") -> None:
    """Runs a case and holds output and lse against float64 and against the reference of the same dtype."""
    hold_problem(case.problem(dtype), backend, device)


def hold_problem(problem: Problem, backend: str, device: str = "cpu") -> None:
    """The same for any inputs."""
    exact, exact_lse = problem.to(torch.float64).run("reference")
    plain, _ = problem.run("reference")
    output, lse = on(problem, device).run(backend)
    assert output.dtype == problem.query.dtype
    output, lse = output.cpu(), lse.cpu()
    tolerances.check_output(output, exact, plain)
    tolerances.check_lse(lse, exact_lse)
    # Not only small: a row that saw nothing is exactly 0.
    assert (output[exact_lse == float("-inf")] == 0).all()
