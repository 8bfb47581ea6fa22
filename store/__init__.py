"""What is known: catalogue, replicated log, journal and integer ranges in one SQLite file."""
