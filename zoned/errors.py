"""What can go wrong in the daemon above the store. Each error says the state it leaves behind."""


class ZonedError(Exception):
    """Base of the daemon's errors."""


class CannotStart(ZonedError):
    """The daemon cannot run as configured; the text names the thing to change. Nothing is left running."""


class StoreDamaged(ZonedError):
    """The store cannot be read. The daemon ends; nothing was changed by finding out."""


class PeerUnreachable(ZonedError):
    """A peer did not answer. Whether it acted on the request is unknown; every request to peers may be repeated."""


class PeerRefused(ZonedError):
    """A peer answered with a refusal; the text is its reason. Nothing was changed there."""
