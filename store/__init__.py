"""What is known: catalogue, replicated log, journal and integer ranges in one SQLite file.

`images`, `operations` and `entries` are data and decisions (sans-IO); `catalogue`, `log`, `journal`, `ranges`,
`apply` and `identity` are plain functions of a connection; `database` alone owns threads and files.
"""
