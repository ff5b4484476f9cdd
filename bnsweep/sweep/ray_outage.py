"""When a cluster has nobody left to work, or no head: what is said, and when a sweep stops waiting."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from time import monotonic

from bnsweep.errors import EngineError
from bnsweep.experiment.resources import Resource
from bnsweep.sweep.ray_nodes import Nodes, asked

__all__ = ["Head", "Outage", "exit_at_once"]

SAID_S = 10.0  # a node that is replaced at once need not be spoken of
LOOK_S = 2.0
HEAD_S = 20.0  # Ray's library ends the process after 60 s without a head, in words of its own
ANSWER_S = 2.0
KEPT = "What has landed is kept"


class Outage:
    """How long no node that is up has been able to do any of the work.

    Ray waits for ever for a node, and says nothing. `patience_s`: when to give up; None: never.
    """

    def __init__(self, nodes: Nodes, patience_s: float | None) -> None:
        self._nodes = nodes
        self._patience_s = patience_s
        self._looked = 0.0
        self._since: float | None = None
        self._said = False

    def over(self) -> None:
        """Something was done."""
        self._since, self._said = None, False

    def look(self, wanted: Mapping[str, Resource]) -> str | None:
        """Look at the nodes, once in a while; what there is to tell people. `wanted`: by the name in the spec.

        Raises:
            EngineError: patience has come to its end.
        """
        now = monotonic()
        if now - self._looked < LOOK_S:
            return None
        self._looked = now
        if not wanted or any(self._nodes.there(resource) for resource in wanted.values()):
            said = self._said
            self.over()
            return "a node is up again: the sweep goes on" if said else None
        self._since = self._since or now
        waited_s = now - self._since
        asks = "; ".join(f"`resources.{what}` asks for {asked(resource)}" for what, resource in wanted.items())
        if self._patience_s is not None and waited_s >= self._patience_s:
            raise EngineError(
                f"for {waited_s:.0f} s no node was up that can do the work: {asks}. {KEPT}; start such nodes, or ask "
                "for less, then run again to go on"
            )
        if self._said or waited_s < SAID_S:
            return None
        self._said = True
        limit = (
            "--wait-for-nodes SECONDS would end that"
            if self._patience_s is None
            else f"it gives up after {self._patience_s:g} s"
        )
        return f"no node is up that can do the work: {asks}. {KEPT}, and the sweep goes on when one joins; {limit}"


class Head:
    """Whether the cluster's head is there, asked without Ray, which would wait for it and then end this process."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._place = host.strip("[]"), int(port)
        self._address = address
        self._since: float | None = None
        self.gone = False

    def answers(self) -> bool:
        """Whether Ray may be asked something now.

        Raises:
            EngineError: the head has been silent for too long.
        """
        try:
            socket.create_connection(self._place, timeout=ANSWER_S).close()
        except OSError as error:
            now = monotonic()
            self._since = self._since or now
            if now - self._since >= HEAD_S:
                self.gone = True
                raise EngineError(
                    f"the head of the Ray cluster at {self._address} has not answered for {now - self._since:.0f} s "
                    f"({error.strerror or error}). {KEPT}; start a cluster, then run the same command again"
                ) from None
            return False
        self._since = None
        return True


def exit_at_once() -> None:
    """End a process that has lost its head: what is left of Ray would wait for it, then end all in its own words."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
