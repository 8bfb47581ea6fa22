"""The zoned daemon: one per zone of a cloud. It serves image metadata from the local store, proxies writes to the
elected registry with outage buffering, and gives integer IDs from pre-leased ranges. Start reading at `daemon.run`.
"""

__version__ = "0.1.0"
