"""What can go wrong in the store. Each error says the state it leaves behind."""

from store.operations import Outcome


class StoreError(Exception):
    """Base of the store's errors. Unless a leaf says otherwise the daemon cannot go on; the file is crash-safe."""


class CannotOpen(StoreError):
    """The data directory cannot be used as it is; the text names the thing to change. Nothing was changed."""


class StorageFull(StoreError):
    """No room for the write. It was rolled back; reads go on, and the same write may succeed later."""


class JournalFull(StorageFull):
    """A bound of the journal is reached. Nothing was written."""


class Refused(StoreError):
    """The local view already shows that the write cannot be done. Nothing was journaled."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(outcome.detail)


class TooBroad(StoreError):
    """A list would read too much of the catalogue for one page. Nothing was changed."""


class WriterEnded(StoreError):
    """The writer is gone, because the daemon ends. Whether the write was made is not known to the caller."""


class Impossible(StoreError):
    """The store holds what no correct run could have made. The daemon must end; nothing was written."""


class Damaged(StoreError):
    """A record on the disk is not what was written there. Nothing was changed; other records can be read."""
