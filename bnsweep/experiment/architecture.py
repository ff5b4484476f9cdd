"""What the experiment needs to know of a network: its BN sites and its size. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Architecture", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place where a BN layer can stand."""

    path: str  # module path, e.g. "stages.0.1.site2"
    channels: int
    stage: int  # 1-based; sites that see feature maps of one resolution form a stage
    shortcut: bool  # after the 1x1 projection of a residual shortcut


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network for one shape of data."""

    name: str
    sites: tuple[Site, ...]  # in forward order
    parameters: int  # with BN at every site
    multiply_adds: int  # of one image's forward pass: convolutions and linear layers
    signature: str  # digest of parameter names and shapes: part of run_id
    fixed: tuple[str, ...] = ()  # paths of sites whose BN layer cannot be taken out, since it does more
    beyond_reach: tuple[tuple[str, int], ...] = ()  # (name, elements) of parameters that no noise hits
    unfoldable: tuple[tuple[str, str], ...] = ()  # (path of a site, why its BN cannot be folded)
