"""The registry in PostgreSQL, or what speaks its protocol: the second engine behind `zoned.engine`.

The database orders and keeps the log; one node at a time may add to it (`takeover`). Zones keep their own copies and
answer lookups from them as ever. Only this package knows psycopg, which is an extra: nothing here is imported unless
`registry.engine` asks for it.
"""
