-- What the registry keeps in PostgreSQL. Plain SQL only: no LISTEN, no advisory locks, no sequences, so that other
-- databases that speak the protocol can serve. Whoever wants to query finds docs/operations.md, "The registry's tables".

CREATE TABLE registry (                 -- exactly one row: who may write, and how far the log goes
    one smallint PRIMARY KEY CHECK (one = 1),
    cluster_id text NOT NULL,
    term bigint NOT NULL,
    position bigint NOT NULL,
    holder text NOT NULL,               -- node ID, "" for nobody
    beat bigint NOT NULL                -- moves while the holder lives; no clock is compared
);

CREATE TABLE log (                      -- every change, in order, as the zones apply it
    position bigint PRIMARY KEY,
    term bigint NOT NULL,
    kind smallint NOT NULL,
    data bytea NOT NULL
);

-- From here on what the log comes to, for people who query. The zones never read it; the registry keeps it up to date a
-- moment behind the log.

CREATE TABLE tables (                   -- exactly one row: up to which position the log is in the tables below
    one smallint PRIMARY KEY CHECK (one = 1),
    position bigint NOT NULL
);

CREATE TABLE images (
    uuid uuid PRIMARY KEY,
    "integer" bigint,
    position bigint NOT NULL,           -- of the entry that changed it last
    deleted_at text,                    -- null: it lives
    created_at text NOT NULL,
    updated_at text NOT NULL,
    owner text,
    name text,
    status text,
    visibility text,
    disk_format text,
    container_format text,
    size bigint,
    protected boolean,
    os_hidden boolean,
    fields text NOT NULL                -- every base attribute, JSON
);
CREATE INDEX images_integer ON images ("integer");
CREATE INDEX images_owner ON images (owner, created_at);

CREATE TABLE properties (
    uuid uuid NOT NULL,
    name text NOT NULL,
    value text,
    PRIMARY KEY (uuid, name)
);

CREATE TABLE tags (
    uuid uuid NOT NULL,
    tag text NOT NULL,
    PRIMARY KEY (uuid, tag)
);

CREATE TABLE image_members (
    uuid uuid NOT NULL,
    project text NOT NULL,
    status text NOT NULL,
    can_share boolean NOT NULL,
    PRIMARY KEY (uuid, project)
);

CREATE TABLE locations (
    uuid uuid NOT NULL,
    number smallint NOT NULL,           -- in the record's order, from 0
    url text NOT NULL,
    metadata text NOT NULL,             -- JSON
    PRIMARY KEY (uuid, number)
);

CREATE TABLE ranges (                   -- every range of integers ever granted
    start bigint PRIMARY KEY,
    stop bigint NOT NULL,               -- exclusive
    node text NOT NULL,
    position bigint NOT NULL,
    retired bigint NOT NULL             -- the position where its rest was burnt, 0: it was not
);
