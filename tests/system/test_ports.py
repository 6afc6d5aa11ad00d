import socket

import pytest

from fedhw.errors import InputError
from fedhw.system.ports import free_port, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_listened_on_and_a_free_one_is_found(host):
    port = free_port("port", 0, host)
    with listen("port", port, host) as listener:
        assert listener.getsockname()[:2] == (host, port)
        with socket.create_connection((host, port)):
            pass


@pytest.mark.parametrize("take", [listen, free_port])
def test_a_port_that_is_taken_is_one_sentence(take):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError) as told:
            take("metrics-port", port)
    assert str(told.value) == (
        f"metrics-port: {port} on 127.0.0.1 cannot be used (Address already in use); give one "
        "that is free"
    )
