"""Values of a network that somebody has trained elsewhere: read from a file, and put into the network.

The file is a safetensors file, or what `torch.save(network.state_dict(), path)` wrote, of which tensors alone are read
and nothing is run. `portable` gives the same bytes for the same values under the same names, whichever it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bnsweep.errors import ModelError
from bnsweep.paths import home_expanded
from bnsweep.training.checkpoint import STRATA, load_values, pack, unpack

__all__ = ["portable", "put_in"]

NESTED = ("state_dict", "model_state_dict", "model", "network", "net")  # where training scripts keep it
WRAPPERS = ("module.", "_orig_mod.")  # nn.DataParallel, torch.compile
COUNTED = ".num_batches_tracked"  # which BN has since PyTorch 0.4.1 and which changes nothing in evaluation
MEASURED = ("running_mean", "running_var")  # buffers that a network computes with as with its parameters
TORCH = (b"PK", b"\x80")  # how files of torch.save begin: a ZIP archive, before 1.6 a pickle
MOST_FOLD = 10  # tensors may share memory, but a small file is not to fill a machine's
HOW = "write it with torch.save(network.state_dict(), PATH), or with safetensors.torch.save_file"


def portable(path: str) -> bytes:
    """The values in a file as safetensors bytes.

    Raises:
        ModelError: no such file, or it holds something else.
    """
    place = home_expanded(path)
    try:
        if place.exists() and not place.is_file():
            raise ModelError(f"weights are a file, but {path!r} is none; {HOW}")
        with place.open("rb") as file:
            begin = file.read(2)
        size = place.stat().st_size
    except (OSError, ValueError) as error:
        raise ModelError(f"the weights {path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    values = _state_dict(_loaded(place, torch_s=begin.startswith(TORCH), path=path), path)
    values.pop(STRATA, None)  # of a network in a store, which are about other images perhaps
    for name, value in values.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise ModelError(f"the weights {path!r} hold {name!r}, which is no plain array of numbers; {HOW}")
    if sum(value.numel() * value.element_size() for value in values.values()) > MOST_FOLD * size:
        raise ModelError(f"the weights {path!r} ({size:,} bytes) stand for far more numbers than they hold; {HOW}")
    return pack(values, {})


@torch.no_grad()
def put_in(network: nn.Module, data: bytes, *, source: str) -> None:
    """Give a network the values that `portable` read, in place; every parameter and buffer must be among them.

    Names may begin with what wraps networks in training, and floats of another precision become the network's. Raises
    ModelError with what does not fit or is not finite, and changes nothing.
    """
    wanted = network.state_dict()
    given = _unwrapped(unpack(data), wanted)
    values = {name: _as(wanted.get(name), value) for name, value in given.items()}
    values |= {name: value for name, value in wanted.items() if name.endswith(COUNTED) and name not in given}
    for name in _computed_with(network):
        if name in values and not values[name].isfinite().all():
            raise ModelError(f"the weights {source!r} are no network to score: {name} has values that are not finite")
    load_values(network, values, source=f"what is in {source!r}")


def _unwrapped(values: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names that the network itself gives, as far as wrappers around it are why they differ."""
    while values and not values.keys() & wanted.keys():
        wrapper = next((each for each in WRAPPERS if all(name.startswith(each) for name in values)), None)
        if wrapper is None:
            break
        values = {name.removeprefix(wrapper): value for name, value in values.items()}
    return values


def _computed_with(network: nn.Module) -> Iterator[str]:
    yield from (name for name, _ in network.named_parameters())
    yield from (name for name, _ in network.named_buffers() if name.endswith(MEASURED))


def _as(wanted: Tensor | None, value: Tensor) -> Tensor:
    """A float of another precision in that of the network."""
    both = wanted is not None and wanted.is_floating_point() and value.is_floating_point()
    return value.to(wanted.dtype) if both and wanted is not None else value


def _loaded(place: Path, *, torch_s: bool, path: str) -> Any:
    try:
        if not torch_s:
            return load_file(place)
        with warnings.catch_warnings(), place.open("rb") as file:  # not the path, whose ending it would go by
            warnings.simplefilter("ignore")  # of pickle's protocol: it is read or refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 (whatever the bytes make of their readers)
        what = "torch.save has not written them whole, or they hold more than tensors, which would be run"
        raise ModelError(
            f"the weights {path!r} cannot be read: {what if torch_s else 'they are no safetensors file'}; {HOW}"
        ) from None


def _state_dict(content: Any, path: str) -> dict[str, Tensor]:
    inner = [content[key] for key in NESTED if key in content] if isinstance(content, Mapping) else []
    for found in (content, *inner):
        if isinstance(found, Mapping) and found and all(map(_named_tensor, found.items())):
            return dict(found)
    raise ModelError(
        f"the weights {path!r} are no state_dict, a mapping of names to tensors, nor do they hold one as "
        f"{' or '.join(NESTED[:3])}; {HOW}"
    )


def _named_tensor(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and name != "__metadata__" and isinstance(value, Tensor)
