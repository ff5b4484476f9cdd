"""What is said where there is no Ray cluster."""

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bnsweep.errors import EngineError

pytest.importorskip("ray")

from bnsweep.sweep import ray_connection, ray_settings


@pytest.fixture
def silent():
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def web():
    """A web server, such as Ray's own dashboard."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("server", ["silent", "web"])
def test_a_server_that_is_not_ray_is_told_instead_of_waited_for(server, request, monkeypatch):
    monkeypatch.setattr(ray_connection, "PATIENCE_S", 1.0)
    port = request.getfixturevalue(server)
    with pytest.raises(EngineError, match=rf"at 127.0.0.1:{port}: .* does not speak Ray's protocol"):
        ray_connection.connect(f"127.0.0.1:{port}", None)


def test_a_port_where_nobody_listens_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(EngineError, match=r"Connection refused\. Is it up\?"):
        ray_connection.connect(f"127.0.0.1:{port}", None)


def test_how_often_a_silent_connection_is_asked_is_the_cluster_s_to_say(monkeypatch):
    """Nodes that were started without these settings close a connection that asks every 10 s."""
    for own_cluster in (False, True):
        monkeypatch.setattr(os, "environ", {})
        ray_settings.prepare_ray(own_cluster=own_cluster)
        assert bool(set(ray_settings.HEALTH) & set(os.environ)) == own_cluster
