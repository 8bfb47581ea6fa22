"""The database's schema versions, one file each, applied in order; a released one is never edited."""
