"""A device of its own that computes with the CPU, and refuses what a GPU refuses.

Code that mixes tensors of two devices, draws with a generator of another, or asks a tensor for its NumPy array works on
a CPU and fails on a GPU. Here it fails too. There are no streams and no kernels: what they do wrong only a GPU shows.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "elsewhere"
aten = torch.ops.aten
# What takes tensors of two devices on a GPU: copies; and an index may lie on the CPU.
_BETWEEN_DEVICES = {aten.copy_.default, aten._to_copy.default}
_WITH_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_TAKES_NUMBERS = {
    *_WITH_INDEX,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.fill.Tensor,
    aten.fill_.Tensor,
}
# What makes the host wait for the device: its result, or the size of it, is a number of the host.
_WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}


class _Module(_DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class Elsewhere(Tensor):
    """A tensor whose memory is elsewhere.

    Args:
        raw: the same on the CPU.
    """

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        _waited("tolist")
        return self.raw.tolist()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() to copy it first")
        return self.raw.detach().numpy()

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made: Any = Elsewhere(self.raw.detach().clone())
        if isinstance(self, nn.Parameter):
            made = nn.Parameter(made, requires_grad=self.requires_grad)
        return memo.setdefault(id(self), made)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # As torch saves those of a device that has no storage of its own.
        given = (self.raw.detach(), self.dtype, str(self.device), self.requires_grad)
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, given

    def __repr__(self, **options: Any) -> str:
        return f"{self.raw!r} on {NAME}"


class _Everything(TorchDispatchMode):
    """Sees also what has no tensor yet: `torch.zeros(3, device="elsewhere")`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    leaves = list(_leaves((args, tuple(kwargs.values()))))
    mine = any(isinstance(one, Elsewhere) for one in leaves)
    device = kwargs.get("device")
    goes_elsewhere = mine if device is None else torch.device(device).type == NAME
    if mine and func not in _BETWEEN_DEVICES:
        _check_devices(func, args, leaves)
    arrives_here = not goes_elsewhere or (func is aten.copy_.default and not isinstance(args[0], Elsewhere))
    if mine and (func in _WAITS or arrives_here or _has_mask(func, args)):
        _waited(str(func))
    generator = kwargs.get("generator")
    if goes_elsewhere and generator is not None:
        raise RuntimeError(f"Expected a {NAME!r} device type for generator but found {generator.device.type!r}")
    given = dict(kwargs)
    if device is not None and goes_elsewhere:
        given["device"] = torch.device("cpu")
    raw = func(*_mapped(_raw, args), **{name: _mapped(_raw, one) for name, one in given.items()})
    if not goes_elsewhere:
        return raw
    found = _mapped(lambda one: Elsewhere(one) if type(one) is Tensor else one, raw)
    return return_and_correct_aliasing(func, args, kwargs, found) if mine else found


# Arguments of torch's operators lie in tuples and lists alone, of which its own trees are twice as slow as all else.
def _leaves(given: Any) -> Iterator[Any]:
    for one in given:
        if isinstance(one, (tuple, list)):
            yield from _leaves(one)
        else:
            yield one


def _mapped(change: Callable[[Any], Any], given: Any) -> Any:
    return type(given)(_mapped(change, one) for one in given) if isinstance(given, (tuple, list)) else change(given)


def _check_devices(func: Any, args: tuple[Any, ...], leaves: list[Any]) -> None:
    may_lie_here = args[1] if func in _WITH_INDEX else []
    takes_numbers = torch.Tag.pointwise in func.tags or func in _TAKES_NUMBERS
    is_changed = args[0] if func.overloadpacket.__name__.endswith("_") else None
    for one in leaves:
        if not isinstance(one, Tensor) or isinstance(one, Elsewhere) or any(one is other for other in may_lie_here):
            continue
        # A single number may lie on the CPU, if it is only read and each result is of one place.
        if one.ndim or not takes_numbers or one is is_changed:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found two devices, {NAME}:0 and cpu ({func})"
            )


def _has_mask(func: Any, args: tuple[Any, ...]) -> bool:
    return func in _WITH_INDEX and any(one is not None and one.dtype == torch.bool for one in args[1])


def _waited(what: str) -> None:
    if _WAITED is not None:
        frames = [frame for frame in traceback.extract_stack() if "site-packages" not in frame.filename]
        asked = next(frame for frame in reversed(frames) if not frame.filename.endswith("elsewhere/device.py"))
        _WAITED.append(f"{Path(asked.filename).name}:{asked.name}: {what}")


_WAITED: list[str] | None = None


@contextmanager
def waits() -> Iterator[list[str]]:
    """Where the host waited for the device within the block: the innermost function that is none of a library's."""
    global _WAITED
    _WAITED = []
    try:
        yield _WAITED
    finally:
        _WAITED = None


def _synchronize(device: Any = None) -> None:
    _waited("synchronize")


def _raw(one: Any) -> Any:
    return one.raw if isinstance(one, Elsewhere) else one


# Inference mode takes no views of wrapped tensors; without gradients is as much of it as is needed here.
def _enter(self: Any) -> None:
    self._without_gradients = torch.no_grad()
    self._without_gradients.__enter__()


def _exit(self: Any, *error: Any) -> None:
    self._without_gradients.__exit__(*error)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The device, within the block. Once in a process it stays known to torch."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME, _Module())
    # `torch.tensor(..., device=)` is made on the CPU and then copied, or the mode would not see it.
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with (
            mock.patch.multiple(torch.inference_mode, __enter__=_enter, __exit__=_exit),
            # A backend in Python has none; there is nothing to wait for.
            mock.patch.object(torch.accelerator, "synchronize", _synchronize),
            _Everything(),
        ):
            yield torch.device(NAME, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
