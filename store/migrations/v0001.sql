-- One file holds everything, so that one transaction can hold everything too.

CREATE TABLE node (                     -- who this node is; exactly one row
    one INTEGER PRIMARY KEY CHECK (one = 1),
    node_id TEXT NOT NULL,              -- UUID, made once, never reused
    zone TEXT NOT NULL,
    label TEXT NOT NULL,                -- cluster label
    generation INTEGER NOT NULL,        -- grows at each start
    promise BLOB,                       -- the membership this node promised to found with, if any
    sequence INTEGER NOT NULL DEFAULT 0,        -- the last journal sequence given
    journal_entries INTEGER NOT NULL DEFAULT 0,
    journal_bytes INTEGER NOT NULL DEFAULT 0,
    shared_entries INTEGER NOT NULL DEFAULT 0,
    shared_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE peers (                    -- where other nodes were reached; never forgotten unless they left
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    PRIMARY KEY (host, port)
) STRICT, WITHOUT ROWID;

CREATE TABLE hard_state (               -- Raft; exactly one row
    one INTEGER PRIMARY KEY CHECK (one = 1),
    term INTEGER NOT NULL,
    vote TEXT NOT NULL,
    commit_index INTEGER NOT NULL
) STRICT;

CREATE TABLE log (                      -- the replicated log
    position INTEGER PRIMARY KEY,
    term INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE compacted (                -- where the log now begins; exactly one row
    one INTEGER PRIMARY KEY CHECK (one = 1),
    position INTEGER NOT NULL,          -- the last entry that is gone, 0 when none is
    term INTEGER NOT NULL,
    membership_position INTEGER NOT NULL,       -- the membership in force there, 0 when there is none
    membership_term INTEGER NOT NULL,
    membership BLOB NOT NULL
) STRICT;

CREATE TABLE replica (                  -- what applying the log has come to; exactly one row
    one INTEGER PRIMARY KEY CHECK (one = 1),
    position INTEGER NOT NULL,
    digest BLOB NOT NULL,               -- sum modulo 2^256 of SHA-256 over every record
    images INTEGER NOT NULL,            -- live records
    next_integer INTEGER NOT NULL,
    chain BLOB NOT NULL                 -- SHA-256 over every line of the audit (store.audit)
) STRICT;

CREATE TABLE audit (                    -- one line for every applied write, the newest (store.audit)
    position INTEGER PRIMARY KEY,
    before BLOB NOT NULL,               -- the chain without this line
    line BLOB NOT NULL                  -- JSON, as it was hashed
) STRICT;

CREATE TABLE checkpoints (              -- the hash at recent round positions, for comparing with other nodes
    position INTEGER PRIMARY KEY,
    digest BLOB NOT NULL                -- of the records and of the audit's chain together
) STRICT;

CREATE TABLE images (                   -- the catalogue as of replica.position
    key INTEGER PRIMARY KEY,            -- in the order of the log, so the same on every node
    uuid BLOB NOT NULL UNIQUE,          -- 16 bytes
    integer INTEGER UNIQUE,
    deleted INTEGER NOT NULL,
    created_at INTEGER NOT NULL,        -- seconds since 1970; from here on base attributes, as lists filter or sort by them
    updated_at INTEGER NOT NULL,
    os_hidden INTEGER NOT NULL,
    protected INTEGER NOT NULL,
    owner TEXT,
    name TEXT,
    status TEXT NOT NULL,
    visibility TEXT NOT NULL,
    disk_format TEXT,
    container_format TEXT,
    size INTEGER,
    virtual_size INTEGER,
    min_ram INTEGER NOT NULL,
    min_disk INTEGER NOT NULL,
    os_hash_algo TEXT,
    unnumbered TEXT,                    -- the node that made the record, while it has no integer
    record BLOB NOT NULL                -- store.packing.pack of store.images.Image.encode
) STRICT;
-- One per sort key and per common equality, each in the order of lists; null sorts as nothing (store.listing).
CREATE INDEX images_newest ON images (created_at, uuid) WHERE deleted = 0;
CREATE INDEX images_name ON images (ifnull(name, ''), created_at, uuid) WHERE deleted = 0;
CREATE INDEX images_status ON images (status, created_at, uuid) WHERE deleted = 0;
CREATE INDEX images_disk_format ON images (ifnull(disk_format, ''), created_at, uuid) WHERE deleted = 0;
CREATE INDEX images_container_format ON images (ifnull(container_format, ''), created_at, uuid) WHERE deleted = 0;
CREATE INDEX images_size ON images (ifnull(size, -1), created_at, uuid) WHERE deleted = 0;
CREATE INDEX images_updated ON images (updated_at, created_at, uuid);
CREATE INDEX images_unnumbered ON images (unnumbered) WHERE unnumbered IS NOT NULL AND deleted = 0;

CREATE TABLE facets (                   -- what live records are found by besides: owner, tags, properties, image members, ...
    facet INTEGER NOT NULL,             -- store.facets.number
    created_at INTEGER NOT NULL,
    uuid BLOB NOT NULL,
    key INTEGER NOT NULL,               -- of images
    PRIMARY KEY (facet, created_at, uuid)
) STRICT, WITHOUT ROWID;

CREATE TABLE numbers (                  -- further integers that lead to an image: store.numbers
    integer INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL
) STRICT;

CREATE TABLE promised (                 -- the same in this node's view: told by writes that are not applied yet
    integer INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL
) STRICT;
CREATE INDEX promised_uuid ON promised (uuid);

CREATE TABLE overlay (                  -- records as unapplied writes would leave them, own ones and shared ones; columns as of images
    key INTEGER PRIMARY KEY,
    uuid BLOB NOT NULL UNIQUE,
    integer INTEGER UNIQUE,
    deleted INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    os_hidden INTEGER NOT NULL,
    protected INTEGER NOT NULL,
    owner TEXT,
    name TEXT,
    status TEXT NOT NULL,
    visibility TEXT NOT NULL,
    disk_format TEXT,
    container_format TEXT,
    size INTEGER,
    virtual_size INTEGER,
    min_ram INTEGER NOT NULL,
    min_disk INTEGER NOT NULL,
    os_hash_algo TEXT,
    unnumbered TEXT,
    record BLOB NOT NULL,
    provisional INTEGER NOT NULL DEFAULT 0,     -- 1: by other nodes' writes only
    open INTEGER NOT NULL DEFAULT 0             -- 1: not for its owner only: public, community, or it has image members
) STRICT;
-- In an outage there may be millions of rows; what a project lists must not read those of all others.
CREATE INDEX overlay_owner ON overlay (owner, created_at, uuid) WHERE deleted = 0;
CREATE INDEX overlay_open ON overlay (created_at, uuid) WHERE open = 1;
CREATE INDEX overlay_newest ON overlay (created_at, uuid) WHERE deleted = 0;

CREATE TABLE history (                  -- what writes changed, the newest of each record (store.history)
    uuid BLOB NOT NULL,
    position INTEGER NOT NULL,
    entry BLOB NOT NULL,                -- packed
    PRIMARY KEY (uuid, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE aliases (                  -- names that point to images
    name TEXT PRIMARY KEY,
    record BLOB NOT NULL                -- store.aliases.Alias.encode
) STRICT, WITHOUT ROWID;

CREATE TABLE marks (                    -- per node the highest applied sequence: exactly once
    node TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE ahead (                    -- writes that were applied before their node's mark has come to them (store.urgent)
    node TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (node, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE ranges (                   -- every integer range ever granted
    start INTEGER PRIMARY KEY,
    stop INTEGER NOT NULL,              -- exclusive
    node TEXT NOT NULL,
    position INTEGER NOT NULL,
    retired INTEGER NOT NULL DEFAULT 0  -- the position where its rest was burnt
) STRICT;
CREATE INDEX ranges_node ON ranges (node);

CREATE TABLE leases (                   -- what this node still has of its own ranges
    start INTEGER PRIMARY KEY,
    next INTEGER NOT NULL,
    stop INTEGER NOT NULL
) STRICT;

CREATE TABLE usage (                    -- integers taken per day (days since 1970), for the rate
    day INTEGER PRIMARY KEY,
    taken INTEGER NOT NULL
) STRICT;

CREATE TABLE journal (                  -- this node's own writes, not yet applied from the log
    sequence INTEGER PRIMARY KEY,
    uuid TEXT,                          -- what it is about: an image, an alias as alias:NAME, null: a range
    operation BLOB NOT NULL,
    at REAL NOT NULL,                   -- wall clock, seconds since 1970
    needs BLOB                          -- writes of other nodes that it was based on (store.shared), NULL for none
) STRICT;
CREATE INDEX journal_uuid ON journal (uuid, sequence);

CREATE TABLE shared (                   -- other nodes' writes, not yet applied from the log: pulled from their journals
    node TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    uuid TEXT,
    operation BLOB NOT NULL,
    at REAL NOT NULL,                   -- by the clock of the node that made it
    needs BLOB,
    PRIMARY KEY (node, sequence)
) STRICT;
CREATE INDEX shared_uuid ON shared (uuid, node, sequence) WHERE uuid IS NOT NULL;

CREATE TABLE urgent (                   -- writes of journal and shared that ride ahead of what waits there (store.urgent)
    node TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    PRIMARY KEY (node, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE holders (                  -- up to which sequence other nodes hold this node's journal
    node TEXT PRIMARY KEY,
    through INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE seen (                     -- which zones have applied a write of this node, as far as anybody asked
    sequence INTEGER NOT NULL,
    zone TEXT NOT NULL,                 -- "" once every zone has
    at REAL NOT NULL,                   -- when this node knew
    PRIMARY KEY (sequence, zone)
) STRICT, WITHOUT ROWID;

CREATE TABLE watched (                  -- this node's writes that switch an image off, until every zone has applied them
    sequence INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE receipts (                 -- what became of this node's own writes
    sequence INTEGER PRIMARY KEY,
    uuid TEXT,
    integer INTEGER,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    position INTEGER NOT NULL,
    at REAL NOT NULL,
    finished_at REAL NOT NULL
) STRICT;
CREATE INDEX log_memberships ON log (kind, position) WHERE kind = 2;
CREATE INDEX receipts_age ON receipts (finished_at);

CREATE TABLE conflicts (                -- values that lost against the order of the log; for a person to resolve
    number INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    at TEXT NOT NULL,                   -- when the losing write was asked for
    uuid TEXT,
    what TEXT NOT NULL,
    committed TEXT NOT NULL,            -- JSON
    committed_write TEXT NOT NULL,      -- the last write to the record before this one
    wanted TEXT NOT NULL,               -- JSON
    node TEXT NOT NULL,                 -- of the losing write
    sequence INTEGER NOT NULL,
    zone TEXT NOT NULL,
    by TEXT NOT NULL,
    take TEXT,                          -- ours, theirs, value, dropped; null while it is open
    resolved_at TEXT,
    resolved_by TEXT,
    resolved_zone TEXT,
    resolved_write TEXT,
    resolved_position INTEGER,
    note TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX conflicts_open ON conflicts (number) WHERE take IS NULL;
CREATE INDEX conflicts_resolved ON conflicts (resolved_position) WHERE resolved_position IS NOT NULL;
CREATE INDEX conflicts_write ON conflicts (node, sequence);

CREATE TABLE idempotency (              -- requests that were applied, by their Idempotency-Key; oldest go first
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    payload BLOB NOT NULL,
    until INTEGER NOT NULL,             -- seconds since 1970
    node TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    uuid TEXT,
    buffered INTEGER NOT NULL,
    state TEXT NOT NULL,
    code TEXT NOT NULL
) STRICT;
CREATE INDEX idempotency_key ON idempotency (key);

CREATE TABLE pending_keys (             -- keys of writes that are known here and not applied yet
    key BLOB NOT NULL,
    payload BLOB NOT NULL,
    node TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    uuid TEXT,
    PRIMARY KEY (key, node, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE answers (                  -- what this node answered to requests with a key; oldest go first
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    payload BLOB NOT NULL,
    until INTEGER NOT NULL,
    status INTEGER NOT NULL,
    headers BLOB NOT NULL,              -- msgpack
    body BLOB NOT NULL                  -- zlib
) STRICT;

CREATE TABLE hold (                     -- from where on this node's journal is held back; no row: it is not
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL,
    reason TEXT NOT NULL,
    by TEXT NOT NULL,
    at TEXT NOT NULL
) STRICT;
