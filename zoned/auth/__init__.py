"""Who a request comes from: nobody in particular, the holder of a token in a file, a user of Keystone."""

from zoned.auth.identity import Authenticator, Open, SocketOwners
from zoned.auth.keystone import Keystone
from zoned.auth.tokens import TokenFile, TokensWrong

__all__ = ["Authenticator", "Keystone", "Open", "SocketOwners", "TokenFile", "TokensWrong"]
