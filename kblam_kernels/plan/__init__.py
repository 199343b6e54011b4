"""The planner: which layout of knowledge each phase reads, from a small cost model; `python -m kblam_kernels.plan`."""

from kblam_kernels.plan.cost import KnowledgePath
from kblam_kernels.plan.devices import Device, device_of
from kblam_kernels.plan.planner import PLAN_VARIABLE, Plan, check_pin, plan
from kblam_kernels.plan.remembered import Rates
from kblam_kernels.plan.workload import Workload

__all__ = ["PLAN_VARIABLE", "Device", "KnowledgePath", "Plan", "Rates", "Workload", "check_pin", "device_of", "plan"]
