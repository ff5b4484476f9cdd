"""Values of a network that somebody has trained elsewhere: read from a file, and put into the network.

The file is a safetensors file, or what `torch.save(network.state_dict(), path)` wrote, of which tensors alone are read
and nothing is run. `portable` gives the same bytes for the same values, whichever of the two it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnsweep.errors import ModelError, StoreDamagedError
from bnsweep.paths import home_expanded
from bnsweep.training.checkpoint import STRATA, differences, load_values, pack, unpack

__all__ = ["portable", "put_in"]

NESTED = ("state_dict", "model_state_dict", "model", "network", "net")  # where training scripts keep it
WRAPPERS = ("module.", "_orig_mod.")  # nn.DataParallel, torch.compile
COUNTED = ".num_batches_tracked"  # which BN has since PyTorch 0.4.1 and which changes nothing in evaluation


def portable(path: str | Path) -> bytes:
    """The values in a file, under the names that the network itself gives them, as safetensors bytes.

    Raises:
        ModelError: no such file, or it holds something else.
    """
    place = home_expanded(path)
    try:
        data = place.read_bytes()
    except OSError as error:
        raise ModelError(f"the weights {path} cannot be read: {error.strerror or error}") from None
    values = _tensors(data, place)
    values.pop(STRATA, None)  # of a network in a store, which are about other images perhaps
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in values):
            values = {name.removeprefix(prefix): value for name, value in values.items()}
    return pack(values, {})


@torch.no_grad()
def put_in(network: nn.Module, data: bytes, *, source: str) -> None:
    """Give a network the values that `portable` read, in place; every parameter and buffer must be among them.

    Floats of another precision become the network's. Raises ModelError with what does not fit, and changes nothing.
    """
    wanted, given = network.state_dict(), unpack(data)
    values = {name: _as(wanted.get(name), value) for name, value in given.items()}
    values |= {name: value for name, value in wanted.items() if name.endswith(COUNTED) and name not in given}
    if faults := differences(wanted, values):
        raise ModelError(f"the weights in {source} are not those of this {type(network).__name__}: {faults}")
    load_values(network, values)


def _as(wanted: Tensor | None, value: Tensor) -> Tensor:
    """A float of another precision in that of the network."""
    both = wanted is not None and wanted.is_floating_point() and value.is_floating_point()
    return value.to(wanted.dtype) if both and wanted is not None else value


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return unpack(data)
        except StoreDamagedError as error:
            raise ModelError(f"{path} is no safetensors file: {error}") from None
    return _state_dict(_loaded(data, path), path)


def _loaded(data: bytes, path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocol: it is read or refused
            return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 (whatever the bytes make of torch's readers)
        raise ModelError(
            f"the weights {path} cannot be read: torch.save has not written them, or they hold more than tensors, "
            "which would be run. Write them with torch.save(network.state_dict(), PATH) or safetensors.torch.save_file"
        ) from None


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    inner = next((content[key] for key in NESTED if isinstance(content, Mapping) and key in content), content)
    for found in (content, inner):
        if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
            return {str(name): value for name, value in found.items()}
    raise ModelError(
        f"the weights {path} are no state_dict, a mapping of names to tensors, nor do they hold one as "
        f"{' or '.join(NESTED[:3])}: write them with torch.save(network.state_dict(), PATH)"
    )
