"""What a person should hear who probably meant something else: sentences that a sweep and `noise_curve` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["on_eta", "on_reach"]

MOST_NAMED = 5  # of a list
TELLING = 0.1  # share of a network's parameters


def on_eta(levels: Sequence[str]) -> str:
    """On noise levels above 1, where eta multiplies a size of the weights."""
    return (
        f"eta above 1 ({_some(levels)}) is noise of more than one standard deviation (of more than the "
        "`sigma_reference`): eta is a fraction, 0.1 means 10 %"
    )


def on_reach(name: str, beyond: Mapping[str, int], parameters: int) -> str | None:
    """On a network of which a good part is out of the noise's reach; None where it is a small one.

    Args:
        name: what to call the network.
        beyond: name -> elements, of the parameters that no target set names.
        parameters: elements of all.
    """
    elements = sum(beyond.values())
    if elements <= TELLING * parameters:
        return None
    largest = sorted(beyond, key=lambda path: -beyond[path])
    return (
        f"no noise hits {elements:,} of the {parameters:,} parameters of {name}, which stand in no layer with weights "
        f"({_some(largest)}): it looks more robust than it is. Put them into nn.Linear or a convolution if hardware "
        "holds them"
    )


def _some(words: Sequence[str]) -> str:
    return ", ".join([*words[:MOST_NAMED], *(["..."] if len(words) > MOST_NAMED else [])])
