"""Who a request comes from: nobody in particular, the holder of a token in a file, a user of Keystone."""

from zoned.auth.doors import Doors
from zoned.auth.identity import Authenticator

__all__ = ["Authenticator", "Doors"]
