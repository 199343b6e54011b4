"""Comparison with golden values that remembers how far off it was."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Scores:
    """The worst figure of each comparison in one test; `conftest.py` sums them up at the end of the run."""

    worst: dict[str, float] = field(default_factory=dict)

    def note(self, what: str, figure: float) -> None:
        """Remembers the worst figure under this name."""
        self.worst[what] = max(figure, self.worst.get(what, 0.0))

    def close(self, what: str, ours: Tensor, golden: Tensor, tolerance: float) -> None:
        """The largest absolute difference is within the tolerance (and not NaN)."""
        assert ours.shape == golden.shape, (what, ours.shape, golden.shape)
        error = (ours.double() - golden.double()).abs().amax().item() if ours.numel() else 0.0
        self.note(what, error)
        assert error <= tolerance, f"{what}: largest difference {error:.3g}, allowed {tolerance:.3g}"

    def near(self, what: str, ours: Tensor, golden: Tensor, share: float) -> None:
        """The root-mean-square error is at most this share of the golden values' own root mean square."""
        assert ours.shape == golden.shape, (what, ours.shape, golden.shape)
        error, size = (x.double().square().mean().sqrt().item() for x in (ours - golden, golden))
        self.note(f"{what}, share of their RMS", error / size)
        assert error <= share * size, f"{what}: RMS error {error:.3g} of {size:.3g}, allowed {share:.3g} of it"

    def no_worse(self, what: str, ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
        """Our root-mean-square error against exact values is at most twice theirs (taken as 1e-3 where it is less).

        The rule for bfloat16, whose roundings depend on the order of every sum: two correct implementations differ
        from each other by about as much as each does from float32.
        """
        assert ours.shape == theirs.shape == exact.shape, (what, ours.shape, theirs.shape, exact.shape)
        our_error, their_error = ((x.double() - exact.double()).square().mean().sqrt().item() for x in (ours, theirs))
        ratio = our_error / max(their_error, 1e-3)
        self.note(f"{what} / upstream's", ratio)
        assert ratio <= 2.0, f"{what}: RMS error {our_error:.3g}, upstream's {their_error:.3g}"
