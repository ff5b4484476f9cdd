"""bnsweep: which batch-normalization layers should a network keep on analog hardware?

    from bnsweep import noise_curve
    print(noise_curve(network, images, labels))

The command line does the rest: `bnsweep --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bnsweep._version import __version__

if TYPE_CHECKING:
    from bnsweep.noise.curve import Curve, noise_curve

__all__ = ["Curve", "__version__", "noise_curve"]


def __getattr__(name: str) -> Any:
    # Lazily: `bnsweep --help` must not wait for torch.
    if name in ("Curve", "noise_curve"):
        from bnsweep.noise import curve

        return getattr(curve, name)
    raise AttributeError(f"module 'bnsweep' has no attribute {name!r}")
