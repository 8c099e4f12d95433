-- A queue database as schema 1 made it, before copies were numbered within their message.
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,            -- short key for the other tables
    id BLOB NOT NULL UNIQUE,            -- the 16 octets of the ULID
    accepted_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    finished_at INTEGER,                -- NULL while a copy is open or a report is due
    open_copies INTEGER NOT NULL,       -- copies that are not finished
    reports_due INTEGER NOT NULL,       -- recipients with a report action
    delivered INTEGER NOT NULL,         -- recipients delivered to
    failed INTEGER NOT NULL,            -- recipients given up
    priority INTEGER NOT NULL,          -- 0 urgent, 1 normal, 2 bulk
    ret INTEGER,                        -- 1 full, 2 headers
    envid TEXT,
    tag TEXT,
    sender TEXT NOT NULL,               -- empty: the null sender
    source TEXT NOT NULL,               -- file name in drop/, or 'report'
    source_inode INTEGER NOT NULL,
    source_size INTEGER NOT NULL,
    source_modified ANY NOT NULL,       -- nanoseconds since the epoch
    file_size INTEGER NOT NULL,
    wire_size INTEGER NOT NULL,
    form INTEGER NOT NULL,              -- bits: 1 canonical, 2 eight-bit, 4 UTF-8 in the header
    hops INTEGER NOT NULL,
    message_id TEXT,
    cuts TEXT,                          -- '12-40 100-120'
    prepend TEXT NOT NULL
) STRICT;
-- A dropped file that reappears. Nanoseconds tell files apart and ascend, so the index grows at its end.
CREATE INDEX messages_source ON messages(source_modified);
-- Start-up and the command line go through what is unfinished, not through days of history.
CREATE INDEX messages_open ON messages(id) WHERE finished_at IS NULL;
CREATE INDEX messages_reports ON messages(id) WHERE reports_due > 0;
-- Purging.
CREATE INDEX messages_finished ON messages(finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE copies (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL REFERENCES messages(seq),
    state INTEGER NOT NULL,             -- 0 queued, 1 sending, 2 held, 3 finished
    priority INTEGER NOT NULL,          -- of the message
    due_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,        -- of the message
    open_recipients INTEGER NOT NULL,   -- recipients in state 0
    attempts INTEGER NOT NULL,          -- that have begun
    began_at INTEGER,                   -- set while one is under way
    first_failed_at INTEGER,
    warned INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL,          -- an attempt was
    hold_reason TEXT,
    domain TEXT NOT NULL
) STRICT;
CREATE INDEX copies_message ON copies(message);
-- The scheduler's pages, and those of one domain. Only what is queued is in them, so they stay small.
CREATE INDEX copies_due ON copies(priority, due_at, id, domain) WHERE state = 0;
CREATE INDEX copies_domain ON copies(domain, priority, due_at) WHERE state = 0;
-- Copies that would wait past their end: few, so that looking for them costs nothing.
CREATE INDEX copies_late ON copies(expires_at) WHERE state = 0 AND due_at > expires_at;

CREATE TABLE recipients (
    id INTEGER PRIMARY KEY,
    copy INTEGER NOT NULL REFERENCES copies(id),
    state INTEGER NOT NULL,             -- 0 waiting (the last outcome, if any, is a deferral), 1 delivered, 2 failed
    notify INTEGER NOT NULL,            -- bits: 1 failure, 2 delay, 4 success, 8 explicit
    report INTEGER,                     -- 1 failed, 2 delayed, 3 relayed: to be told to the sender
    outcome_at INTEGER,                 -- of the last outcome; NULL: none yet
    code INTEGER,
    in_doubt INTEGER,
    dsn_relayed INTEGER,
    status TEXT,
    address TEXT NOT NULL,
    text TEXT,
    reply TEXT,                         -- lines, joined by line feeds
    host TEXT,
    peer TEXT,                          -- address:port
    tls TEXT
) STRICT;
CREATE INDEX recipients_copy ON recipients(copy);
-- The history, newest first. It grows at its end.
CREATE INDEX recipients_final ON recipients(outcome_at) WHERE state > 0;

CREATE TABLE attempts (
    copy INTEGER NOT NULL REFERENCES copies(id),
    number INTEGER NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    queue_us INTEGER NOT NULL,          -- microseconds
    dns_us INTEGER NOT NULL,
    connect_us INTEGER NOT NULL,
    transfer_us INTEGER NOT NULL,
    site TEXT NOT NULL,
    route TEXT NOT NULL,
    trail TEXT NOT NULL,                -- JSON array of lines
    PRIMARY KEY (copy, number)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
