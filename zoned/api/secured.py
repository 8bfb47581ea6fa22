"""A TLS socket that behaves like a plain non-blocking one, for the server's raw reads and writes.

`ssl` says "want read" where a socket says "would block", and may hold decrypted bytes that `select` knows nothing of:
a read here takes all of them, so that waiting for the descriptor is right again.
"""

import socket
import ssl
from typing import Protocol

import trio


class Security(Protocol):
    """What a server needs to speak TLS with clients that show certificates."""

    @property
    def server(self) -> ssl.SSLContext: ...

    @property
    def generation(self) -> int:
        """Raised with every change of what is believed."""

    def check(self, shown: bytes | None, meant: str | None) -> str:
        """Whom a certificate (DER) names. Raises ValueError with the reason why it is not taken."""


class SecuredSocket:
    """The server's side of one connection, after `shake_hands`."""

    def __init__(self, sock: ssl.SSLSocket, security: Security) -> None:
        self._sock = sock
        self._security = security
        self._generation = security.generation

    @property
    def is_outdated(self) -> bool:
        """What is believed has changed since the handshake: whether the client still is, only a new one can tell."""
        return self._security.generation != self._generation

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """At least one byte, b"" at the end. Raises BlockingIOError or another OSError."""
        try:
            data = self._sock.recv(size)
            while waiting := self._sock.pending():
                data += self._sock.recv(waiting)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLZeroReturnError:
            return b""
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Raises BlockingIOError or another OSError. After BlockingIOError the same bytes must come again first."""
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()


async def shake_hands(sock: socket.socket, security: Security) -> tuple[SecuredSocket, str]:
    """The handshake as a server, on a non-blocking socket; with whom the client's certificate names.

    Raises OSError (of which SSLError is one) or ValueError; the socket is closed then.
    """
    wrapped = security.server.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    secured = SecuredSocket(wrapped, security)  # before the handshake, which takes a while
    try:
        while True:
            try:
                wrapped.do_handshake()
                return secured, security.check(wrapped.getpeercert(binary_form=True), None)
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(wrapped)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(wrapped)
    except BaseException:
        wrapped.close()
        raise
