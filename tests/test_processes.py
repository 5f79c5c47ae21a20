"""A port for ranks to meet at."""

import socket

from prealign.processes import free_port


def test_a_free_port_can_be_used_and_is_none_of_outgoing_connections() -> None:
    for _ in range(50):
        port = free_port()
        assert 20_000 <= port < 32_000
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_port_in_use_is_not_given(monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        used = taken.getsockname()[1]
        monkeypatch.setattr("prealign.processes._PORTS", range(used, used + 20))
        assert all(free_port() != used for _ in range(40))
