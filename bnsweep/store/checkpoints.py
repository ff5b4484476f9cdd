"""Trained networks, what they began with, and the state of training runs in flight, beside the tables.

Networks are content-addressed and checked when they are read. A slot keeps the latest state of one unfinished run.
Both travel to workers on other machines by the store's location alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from bnsweep.errors import StoreDamagedError, StoreError
from bnsweep.store.filesystem import Files

__all__ = ["Checkpoints", "Slot", "network_name"]

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")
DIGEST_BYTES = 32


def checked_run_id(run_id: str) -> str:
    """A run id that is safe as a file name."""
    if not RUN_ID.fullmatch(run_id):
        raise StoreError(f"a run id has 1 to 128 letters, digits, '-' or '_', but got {run_id!r}")
    return run_id


@dataclass(frozen=True)
class Slot:
    """Where one run keeps what it needs to go on after an interruption."""

    files: Files
    run_id: str

    @property
    def name(self) -> str:
        return f"resume/{checked_run_id(self.run_id)}"

    def read(self) -> bytes | None:
        """The state written last; None if there is none or it is damaged, which means: start again."""
        try:
            data = self.files.read(self.name)
        except FileNotFoundError:
            return None
        digest, body = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        return body if hashlib.sha256(body).digest() == digest else None

    def write(self, data: bytes) -> None:
        """Replace the state in one step. Raises StoreUnwritableError."""
        self.files.write(self.name, hashlib.sha256(data).digest() + data)

    def delete(self) -> None:
        """The run is over."""
        self.files.delete(self.name)


@dataclass(frozen=True)
class Checkpoints:
    """The networks and slots of one store; picklable."""

    files: Files

    def slot(self, run_id: str) -> Slot:
        """Where this run keeps its state."""
        checked_run_id(run_id)
        return Slot(self.files, run_id)

    def drop_slots(self, run_ids: Iterable[str]) -> None:
        """These runs are over, and their ends are in the store."""
        over = {Slot(self.files, run_id).name for run_id in run_ids}
        for name in over & {entry.name for entry in self.files.list("resume")}:
            self.files.delete(name)

    def put_network(self, run_id: str, data: bytes) -> str:
        """Keep a trained network; its SHA-256, to be given to `get_network`. Raises StoreUnwritableError."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.files.write(network_name(run_id, sha256), data)
        return sha256

    def get_network(self, run_id: str, sha256: str) -> bytes:
        """The bytes of a network; StoreDamagedError if they are lost or are not those that were put."""
        return self._read(network_name(run_id, sha256), sha256, f"the network of run {run_id} is")

    def put_weights(self, sha256: str, data: bytes) -> None:
        """Keep values that networks begin with, by their digest, where every worker finds them."""
        self.files.write(_weights_name(sha256), data)

    def get_weights(self, sha256: str) -> bytes:
        """The bytes of such values; StoreDamagedError if they are lost or are not those that were put."""
        return self._read(_weights_name(sha256), sha256, "weights that a network begins with are")

    def drop_weights(self, sha256: str) -> None:
        """No network is to begin with them any more."""
        self.files.delete(_weights_name(sha256))

    def _read(self, name: str, sha256: str, what: str) -> bytes:
        try:
            data = self.files.read(name)
        except FileNotFoundError as error:
            raise StoreDamagedError(f"{what} lost: {self.files.url(name)} is gone") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StoreDamagedError(f"{what} damaged: {self.files.url(name)} was changed")
        return data

    def fault(self, run_id: str, sha256: str | None) -> str:
        """What is wrong with a network ("the network of run X is lost"), by its digest; empty if it is whole."""
        if sha256 is None:
            return f"the network of run {run_id} was not kept"
        try:
            self.get_network(run_id, sha256)
        except StoreDamagedError as error:
            return str(error).partition(":")[0]
        return ""

    def networks(self) -> set[str]:
        """The files of all networks that are there, by their `network_name`, without reading them."""
        return {entry.name for entry in self.files.list("networks")}


def _weights_name(sha256: str) -> str:
    return f"weights/{sha256}.safetensors"


def network_name(run_id: str, sha256: str) -> str:
    """The file of a network, e.g. networks/RUN-0123456789abcdef.safetensors."""
    if not SHA256.fullmatch(sha256):
        raise StoreError(f"a SHA-256 has 64 hex digits, but got {sha256!r}")
    return f"networks/{checked_run_id(run_id)}-{sha256[:16]}.safetensors"
