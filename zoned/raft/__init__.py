"""Raft: the election and the replicated log. `core` decides (sans-IO), `node` does (trio, store, HTTP)."""
