-- What a controller must not forget. Times are Unix milliseconds, ids 16 bytes, digests SHA-256.
-- PostgreSQL has the same tables with BYTEA for BLOB and BIGINT for INTEGER; every query is the same text.

-- A job's changing part: small, because every append rewrites the row.
CREATE TABLE jobs (
    job          BLOB    NOT NULL PRIMARY KEY,
    state        TEXT    NOT NULL CHECK (state IN ('queued', 'active', 'paused', 'cancelling', 'done')),
    targets      INTEGER NOT NULL,
    counts       BLOB    NOT NULL,
    last_seq     INTEGER NOT NULL,
    -- How many bytes of the job's output file count.
    output_bytes INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    accepted_at  INTEGER NOT NULL,
    done_at      INTEGER,
    CHECK ((state = 'done') = (done_at IS NOT NULL))
);
CREATE INDEX jobs_newest ON jobs (accepted_at DESC, job DESC);
CREATE INDEX jobs_unfinished ON jobs (accepted_at, job) WHERE done_at IS NULL;

CREATE INDEX jobs_oldest_done ON jobs (done_at, job) WHERE done_at IS NOT NULL;

CREATE TRIGGER jobs_kept_until_done BEFORE DELETE ON jobs WHEN OLD.done_at IS NULL
BEGIN SELECT RAISE(ABORT, 'a job that is not done is never removed'); END;
CREATE TRIGGER jobs_done_for_ever BEFORE UPDATE ON jobs WHEN OLD.done_at IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a job that is done never changes'); END;

-- A job's fixed part: what lists show of it, what was signed, and the frozen target list as one record. Lists never
-- read beyond `lineage`: what follows may have megabytes.
CREATE TABLE job_specs (
    job         BLOB NOT NULL PRIMARY KEY REFERENCES jobs (job) ON DELETE CASCADE,
    operator    TEXT NOT NULL,
    title       TEXT NOT NULL,
    argv        BLOB NOT NULL,
    root        BLOB NOT NULL,
    -- The job that it repeats at some of its targets, and the first of that lineage; NULL of a job that repeats none.
    rerun_of    BLOB,
    lineage     BLOB,
    signature   BLOB NOT NULL,
    certificate BLOB NOT NULL,
    payload     BLOB NOT NULL,
    targets     BLOB NOT NULL
);
CREATE INDEX job_specs_lineage ON job_specs (lineage) WHERE lineage IS NOT NULL;

-- What a job needs besides what was signed: files in blobs/.
CREATE TABLE job_blobs (
    job    BLOB NOT NULL REFERENCES jobs (job) ON DELETE CASCADE,
    digest BLOB NOT NULL,
    PRIMARY KEY (job, digest)
);
CREATE INDEX job_blobs_digest ON job_blobs (digest);

-- Jobs that were removed, for ever: an agent may come back with a result after any time. While `rest` is 1 events of
-- theirs are left.
CREATE TABLE pruned (
    job       BLOB    NOT NULL PRIMARY KEY,
    pruned_at INTEGER NOT NULL,
    rest      INTEGER NOT NULL
);
CREATE INDEX pruned_rest ON pruned (job) WHERE rest = 1;

-- Events, several to a block; readers go by last_seq. Their places in the job's output file count from output_at.
-- The job is in `jobs`, or in `pruned` until its blocks are gone, a few at a time.
CREATE TABLE event_blocks (
    job       BLOB    NOT NULL,
    last_seq  INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    output_at INTEGER NOT NULL,
    body      BLOB    NOT NULL,
    PRIMARY KEY (job, last_seq)
) WITHOUT ROWID;

-- The jobs that may be removed, with what goes with each, blobs apart.
CREATE VIEW done_jobs AS
SELECT j.job AS job, j.done_at AS done_at,
       j.output_bytes + LENGTH(s.payload) + LENGTH(s.targets)
           + (SELECT COALESCE(SUM(LENGTH(e.body)), 0) FROM event_blocks e WHERE e.job = j.job) AS bytes
FROM jobs j JOIN job_specs s ON s.job = j.job
WHERE j.done_at IS NOT NULL;

-- What became known of a task after its terminal state; the first word counts, so that no agent can fill the table.
CREATE TABLE late_evidence (
    job     BLOB    NOT NULL REFERENCES jobs (job) ON DELETE CASCADE,
    target  INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    text    TEXT    NOT NULL,
    PRIMARY KEY (job, target, attempt)
);

-- What belongs to the store as a whole: `nonce`, the secret that proves which nonces it made.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
);

CREATE TABLE agents (
    id           BLOB    NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL,
    -- Fingerprints of the key that counts, and of one that a renewal has issued and nobody has used yet.
    key          BLOB    NOT NULL,
    next_key     BLOB,
    labels       BLOB    NOT NULL,
    facts_digest BLOB,
    facts        BLOB,
    -- The chain of nonces, by the numbers of the sessions that handed them out: see nonce.rs.
    last_epoch   INTEGER NOT NULL DEFAULT 0,
    held         INTEGER,
    issued       INTEGER,
    outcast      INTEGER,
    -- The machine of the last session; both machines while two use the identity.
    party        BLOB,
    quarantine   BLOB,
    enrolled_at  INTEGER NOT NULL,
    renewed_at   INTEGER,
    revoked_at   INTEGER
);
CREATE UNIQUE INDEX agents_name ON agents (name) WHERE revoked_at IS NULL;

CREATE TABLE tokens (
    hash       BLOB    NOT NULL PRIMARY KEY,
    labels     BLOB    NOT NULL,
    uses_left  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    operator   TEXT    NOT NULL
);

-- Machines that ask for approval by the fingerprint of their key; labels once they have it.
CREATE TABLE pending_agents (
    fingerprint BLOB    NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL,
    address     TEXT    NOT NULL,
    asked_at    INTEGER NOT NULL,
    labels      BLOB
);

CREATE TABLE operators (
    name            TEXT    NOT NULL PRIMARY KEY,
    code_hash       BLOB    UNIQUE,
    code_expires_at INTEGER,
    key_fingerprint BLOB,
    added_at        INTEGER NOT NULL,
    login_at        INTEGER,
    disabled_at     INTEGER
);

-- Names for expressions.
CREATE TABLE groups (
    name       TEXT    NOT NULL PRIMARY KEY,
    expression TEXT    NOT NULL,
    operator   TEXT    NOT NULL,
    changed_at INTEGER NOT NULL
);

-- Pings that the controller repeats. `id` is never given twice: what is left of a schedule that was removed belongs to
-- no other. `body` says who is looked at, and what is asked.
CREATE TABLE schedules (
    name       TEXT    NOT NULL PRIMARY KEY,
    id         BLOB    NOT NULL UNIQUE,
    operator   TEXT    NOT NULL,
    every_ms   INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    body       BLOB    NOT NULL
);

-- How all pairs of a schedule were in 10 minutes, in one packed record.
CREATE TABLE ping_intervals (
    schedule BLOB    NOT NULL,
    start    INTEGER NOT NULL,
    body     BLOB    NOT NULL,
    PRIMARY KEY (schedule, start)
) WITHOUT ROWID;
CREATE INDEX ping_intervals_start ON ping_intervals (start);

-- Who of a schedule's pairs went up or down; `vantage` is empty where the controller looks.
CREATE TABLE ping_changes (
    schedule BLOB    NOT NULL,
    at       INTEGER NOT NULL,
    vantage  TEXT    NOT NULL,
    host     TEXT    NOT NULL,
    up       INTEGER NOT NULL CHECK (up IN (0, 1)),
    reason   TEXT,
    PRIMARY KEY (schedule, at, vantage, host)
) WITHOUT ROWID;
CREATE INDEX ping_changes_at ON ping_changes (at);

-- Who did what. Each hash covers the one before it, so that a change anywhere shows.
CREATE TABLE audit (
    seq    INTEGER NOT NULL PRIMARY KEY,
    time   INTEGER NOT NULL,
    actor  TEXT    NOT NULL,
    action TEXT    NOT NULL,
    detail TEXT    NOT NULL,
    hash   BLOB    NOT NULL
);

CREATE TRIGGER audit_never_altered BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_never_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
