"""Sockets to listen on: what can be in the way, and the one sentence that says so."""

import socket
import stat

import pytest
import trio

from zoned.errors import CannotStart
from zoned.fleet import free_ports
from zoned.listeners import bound_address, open_admin, open_tcp, open_tcp_and_udp


async def test_any_free_port_is_the_same_number_for_tcp_and_udp():
    listener, udp = await open_tcp_and_udp("peers.listen", "127.0.0.1:0")
    try:
        assert udp.getsockname() == bound_address(listener)
    finally:
        udp.close()
        await listener.aclose()


async def test_a_taken_tcp_port_is_refused_with_its_setting():
    first = await open_tcp("http.listen", "127.0.0.1:0")
    host, port = bound_address(first)
    with pytest.raises(
        CannotStart, match=rf"^http\.listen {host}:{port} cannot be listened on: .*change http\.listen$"
    ):
        await open_tcp("http.listen", f"{host}:{port}")
    await first.aclose()


async def test_a_taken_udp_port_is_refused_and_frees_the_tcp_port():
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        (port,) = free_ports(1)  # a port that the system picks for UDP alone may be taken for TCP
        await udp.bind(("127.0.0.1", port))
        with pytest.raises(CannotStart, match=r"peers\.listen .* UDP"):
            await open_tcp_and_udp("peers.listen", f"127.0.0.1:{port}")
        again = await open_tcp("peers.listen", f"127.0.0.1:{port}")
        await again.aclose()


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no.such.host.invalid:0"])
async def test_an_address_that_is_not_ours_is_refused_in_one_line(address):
    with pytest.raises(CannotStart) as caught:
        await open_tcp("http.listen", address)
    assert str(caught.value).startswith(f"http.listen {address} ")
    assert "\n" not in str(caught.value)


async def test_the_admin_socket_is_for_its_owner_only_and_its_directory_is_made(tmp_path):
    path = tmp_path / "made" / "zoned.sock"
    listener = await open_admin(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await listener.aclose()


async def test_a_socket_that_nobody_serves_any_more_is_replaced(tmp_path):
    path = tmp_path / "zoned.sock"
    await (await open_admin(path)).aclose()
    assert path.exists()
    second = await open_admin(path)
    async with await trio.open_unix_socket(path):
        pass
    await second.aclose()


async def test_a_socket_that_is_served_is_left_alone(tmp_path):
    path = tmp_path / "zoned.sock"
    first = await open_admin(path)
    with pytest.raises(CannotStart, match="served by another process"):
        await open_admin(path)
    async with await trio.open_unix_socket(path):
        pass
    await first.aclose()


async def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path):
    path = tmp_path / "zoned.sock"
    path.write_text("precious")
    with pytest.raises(CannotStart, match="is no socket"):
        await open_admin(path)
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_unix_socket_is_refused(tmp_path):
    with pytest.raises(CannotStart, match="107 bytes"):
        await open_admin(tmp_path / ("x" * 120))


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=r"admin\.socket"):
        await open_admin(tmp_path / "file" / "zoned.sock")
