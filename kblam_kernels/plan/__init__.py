"""The planner: which layout of knowledge each phase reads, from a small cost model; `python -m kblam_kernels.plan`."""

from kblam_kernels.plan.cost import Path
from kblam_kernels.plan.devices import Device, Rates, device_of
from kblam_kernels.plan.planner import PLAN_VARIABLE, Plan, plan
from kblam_kernels.plan.shape import Shape

__all__ = ["PLAN_VARIABLE", "Device", "Path", "Plan", "Rates", "Shape", "device_of", "plan"]
