"""`python -m kblam_kernels.plan`: the plan for a model, a number of triples and a device, with its reasoning."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from kblam_kernels.errors import UnsupportedInputError
from kblam_kernels.interrupts import leave
from kblam_kernels.plan.devices import SPECIFIED, device_of
from kblam_kernels.plan.planner import AUTO, PLAN_VARIABLE, plan
from kblam_kernels.plan.workload import MODELS


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a plan; what makes no sense ends with a message and status 2."""
    parser = argparse.ArgumentParser(prog="python -m kblam_kernels plan", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="llama-3-8b")
    parser.add_argument("--triples", type=int, default=100_000)
    parser.add_argument("--device", choices=["cpu", "cuda", *SPECIFIED], default="cpu")
    parser.add_argument("--width", type=int, default=384, help="of a latent (384: all-MiniLM-L6-v2)")
    parser.add_argument("--batch", type=int, default=1, help="sequences at a time")
    parser.add_argument("--prefill", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--pin", default=AUTO, help=f"a path, as {PLAN_VARIABLE}")
    parser.add_argument("--measure", action="store_true", help="anew: the device that is here")
    given = parser.parse_args(arguments)
    model = MODELS[given.model]
    try:
        workload = model.workload(given.triples, width=given.width, batch=given.batch, prefill_tokens=given.prefill)
        device = device_of(given.device, anew=given.measure)
        if given.device in SPECIFIED:
            # An empty card with the model's weights on it, in a 16-bit dtype.
            device = device.with_memory(device.memory - 2 * model.parameters)
        made = plan(workload, device, pin=given.pin)
    except (UnsupportedInputError, RuntimeError) as error:
        parser.error(str(error))
    print(f"{model.title}: {made}")


if __name__ == "__main__":
    leave(main)
