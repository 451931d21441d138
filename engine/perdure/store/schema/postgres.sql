-- The tables of perdure in PostgreSQL. They lie beside the application's own tables, in the first
-- schema of the search path. Instants are integer milliseconds since the epoch, values JSON text:
-- never jsonb, which would not give them back to the letter. A CHECK here means that a bug in
-- Python cannot store what must not exist. Of the tables that each step writes to, triggers say it:
-- PostgreSQL reads each CHECK of a table anew, from text, for each statement that writes to it,
-- and theirs took longer than all else that a step's commit does in the server. Ids compare by
-- their bytes (COLLATE "C"): a collation of the system's may change under an index. A statement
-- ends at a semicolon at a line's end, where the next line is not indented.

-- One row: settings. Its lock is held by who changes them, or takes permits under them.
CREATE TABLE perdure_config (
    id bigint PRIMARY KEY CHECK (id = 1),
    schema_version bigint NOT NULL,
    max_parallelism bigint NOT NULL CHECK (max_parallelism BETWEEN 0 AND 100000)
);

-- Sequences and not columns: whoever takes a number must not wait for another's commit.
-- Epochs are taken in portions, each one step of the sequence.
CREATE SEQUENCE perdure_epochs AS bigint INCREMENT BY 65536;
CREATE SEQUENCE perdure_event_order AS bigint;

-- One row per life of a worker. A fenced worker may write nothing any more. Each commit of a worker
-- updates its row: hence the room on its page.
CREATE TABLE perdure_workers (
    id text COLLATE "C" PRIMARY KEY,
    fenced boolean NOT NULL DEFAULT false,
    started_at bigint NOT NULL,
    lease_until timestamptz NOT NULL,
    permits bigint NOT NULL DEFAULT 0,
    wanting bigint NOT NULL DEFAULT 0,
    session bigint NOT NULL DEFAULT 0                     -- raised when a commit is in doubt
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);

CREATE FUNCTION perdure_check_worker() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT (new.permits >= 0 AND new.wanting >= 0) THEN
            RAISE check_violation USING MESSAGE = format(
                'perdure must not store permits %s and wanting %s of worker %L',
                new.permits, new.wanting, new.id
            );
        END IF;
        RETURN new;
    END
$$;
CREATE TRIGGER perdure_check_worker
    BEFORE INSERT OR UPDATE OF permits, wanting
    ON perdure_workers FOR EACH ROW EXECUTE FUNCTION perdure_check_worker();

CREATE TABLE perdure_workflows (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,       -- order of creation
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    arguments text NOT NULL,
    context text,
    on_complete text,
    parent_id text COLLATE "C",
    parent_number bigint,
    depth bigint NOT NULL DEFAULT 0,
    rules bigint NOT NULL,
    version text,                                         -- of the user's code, for later
    created_at bigint NOT NULL,
    start_at bigint NOT NULL,
    status text COLLATE "C" NOT NULL,
    value text,
    error text,
    epoch bigint NOT NULL,
    owner text COLLATE "C" REFERENCES perdure_workers (id),
    position bigint NOT NULL DEFAULT -1,
    stamp bigint NOT NULL DEFAULT 0,
    started_at bigint,
    ended_at bigint,
    next_number bigint NOT NULL DEFAULT 0,
    timer_at bigint,
    wake_at bigint,
    journal_bytes bigint NOT NULL DEFAULT 0,
    takeovers bigint NOT NULL DEFAULT 0,
    blocked text,
    on_complete_error text,
    CHECK ((position >= 0) = (started_at IS NOT NULL))
) WITH (fillfactor = 70);

CREATE FUNCTION perdure_check_workflow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT (
            new.status IN ('in_progress', 'success', 'failed', 'canceled')
            AND new.epoch > 0
            AND (new.status = 'in_progress') = (new.ended_at IS NULL)
            AND (new.status = 'success') = (new.value IS NOT NULL)
            AND (new.status = 'failed') = (new.error IS NOT NULL)
            AND (new.status = 'in_progress' OR (new.owner IS NULL AND new.wake_at IS NULL))
            AND (new.parent_id IS NULL) = (new.parent_number IS NULL)
        ) THEN
            -- Not the whole row: arguments and values of users have no place in a log.
            RAISE check_violation USING MESSAGE = format(
                'perdure must not store workflow %L with status %L, epoch %s, owner %L, ended_at'
                ' %L, wake_at %L, parent %L %L; has value: %s, has error: %s',
                new.id, new.status, new.epoch, new.owner, new.ended_at, new.wake_at,
                new.parent_id, new.parent_number, new.value IS NOT NULL, new.error IS NOT NULL
            );
        END IF;
        RETURN new;
    END
$$;
-- Not for what is written while its owner goes on with it.
CREATE TRIGGER perdure_check_workflow
    BEFORE INSERT OR UPDATE OF
        status, epoch, ended_at, value, error, owner, wake_at, parent_id, parent_number
    ON perdure_workflows FOR EACH ROW EXECUTE FUNCTION perdure_check_workflow();

-- What nobody owns and somebody should take: for each name, which not every worker knows, by the
-- time at which it wants to be woken.
CREATE INDEX perdure_workflows_wake ON perdure_workflows (name, wake_at)
    WHERE owner IS NULL AND wake_at IS NOT NULL;
-- What a worker owns: read when it died, and for its inbox.
CREATE INDEX perdure_workflows_owner ON perdure_workflows (owner) WHERE owner IS NOT NULL;
CREATE INDEX perdure_workflows_parent ON perdure_workflows (parent_id) WHERE parent_id IS NOT NULL;
-- Listings; one by name alone reads a piece for each status.
CREATE INDEX perdure_workflows_name ON perdure_workflows (name, status, seq);
CREATE INDEX perdure_workflows_status ON perdure_workflows (status, seq);
CREATE INDEX perdure_workflows_blocked ON perdure_workflows (seq) WHERE blocked IS NOT NULL;

CREATE TABLE perdure_steps (
    workflow_id text COLLATE "C" NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    number bigint NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    function text,
    arguments text,
    options text,                                         -- retry, timeout, inline, … as JSON
    asked_position bigint NOT NULL,
    asked_at bigint NOT NULL,
    asked_epoch bigint NOT NULL,
    state text NOT NULL,
    due_at bigint,
    runner text COLLATE "C",
    attempt bigint NOT NULL DEFAULT 0,
    started_at bigint,
    started_epoch bigint,
    deadline_at bigint,
    outcome text,
    value text,
    error text,
    settled_at bigint,
    delivered_position bigint,
    delivered_at bigint,
    canceled_position bigint,
    child_id text,
    event_id text,
    away boolean NOT NULL DEFAULT false,                  -- its runner may not own it
    -- An index on `state` itself would be written with every change of it. These stay as they are
    -- when an attempt of an owner's ends, so that its update is written on the step's own page.
    -- (They are not GENERATED: their expressions would be read from text, as a CHECK is.)
    is_ready boolean NOT NULL DEFAULT false,              -- kept by perdure_keep_step
    away_runner text COLLATE "C",                         -- the same
    PRIMARY KEY (workflow_id, number)
) WITH (fillfactor = 80);

CREATE FUNCTION perdure_keep_step() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT (
            new.number >= 0
            AND new.kind IN ('query', 'mutation', 'action', 'workflow', 'sleep', 'event')
            AND new.asked_position >= 0
            AND new.state IN ('asked', 'ready', 'started', 'backoff', 'settled')
            AND new.attempt >= 0
            AND (new.state = 'settled') = (new.outcome IS NOT NULL)
            AND (
                new.outcome IS NULL
                OR (
                    new.outcome IN ('success', 'failed', 'canceled')
                    AND (new.outcome = 'success') = (new.value IS NOT NULL)
                    AND (new.outcome = 'failed') = (new.error IS NOT NULL)
                )
            )
            AND (new.state <> 'started' OR (new.runner IS NOT NULL AND new.attempt > 0))
            AND (
                new.delivered_position IS NULL
                OR (new.state = 'settled' AND new.delivered_position > new.asked_position)
            )
            AND (new.canceled_position IS NULL OR new.outcome = 'canceled')
        ) THEN
            RAISE check_violation USING MESSAGE = format(
                'perdure must not store step %s of workflow %L with kind %L, state %L, outcome %L,'
                ' attempt %s, runner %L, positions %s %L %L; has value: %s, has error: %s',
                new.number, new.workflow_id, new.kind, new.state, new.outcome, new.attempt,
                new.runner, new.asked_position, new.delivered_position, new.canceled_position,
                new.value IS NOT NULL, new.error IS NOT NULL
            );
        END IF;
        new.is_ready := new.state = 'ready';
        new.away_runner := CASE WHEN new.away AND new.state = 'started' THEN new.runner END;
        RETURN new;
    END
$$;
CREATE TRIGGER perdure_keep_step
    BEFORE INSERT OR UPDATE ON perdure_steps FOR EACH ROW EXECUTE FUNCTION perdure_keep_step();

-- Attempts whose runner may not own the workflow: read when a worker died. The others are found
-- with their workflow.
CREATE INDEX perdure_steps_away ON perdure_steps (away_runner) WHERE away_runner IS NOT NULL;
-- The queue, for workers with permits to spare.
CREATE INDEX perdure_steps_ready ON perdure_steps (due_at) WHERE is_ready;

CREATE TABLE perdure_ticks (
    workflow_id text COLLATE "C" NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    position bigint NOT NULL CHECK (position > 0),
    now bigint NOT NULL,
    PRIMARY KEY (workflow_id, position)
);

CREATE TABLE perdure_events (
    workflow_id text COLLATE "C" NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    sequence bigint,                                      -- null while it is only created
    sent_at bigint,
    value text,
    error text,
    consumed_by bigint,                                   -- number of the step
    made bigint,                                          -- order in which events were created
    token text COLLATE "C",                               -- of a send that is not its own id
    PRIMARY KEY (workflow_id, id),
    CHECK ((sequence IS NULL) = (sent_at IS NULL)),
    CHECK ((sequence IS NULL) = (value IS NULL AND error IS NULL)),
    CHECK (consumed_by IS NULL OR sequence IS NOT NULL)
);
CREATE UNIQUE INDEX perdure_events_id ON perdure_events (id);
-- Two that are small: events that are only created, and those that were.
CREATE INDEX perdure_events_created ON perdure_events (workflow_id, name, made)
    WHERE sequence IS NULL;
CREATE UNIQUE INDEX perdure_events_token ON perdure_events (token) WHERE token IS NOT NULL;

-- Messages that another process has for the owner of a workflow (or, with `worker`, for one).
CREATE TABLE perdure_inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL,
    worker text COLLATE "C",
    kind text NOT NULL CHECK (kind IN ('attempt', 'child', 'event', 'revoked')),
    number bigint,
    body text NOT NULL,
    accepted_at bigint NOT NULL
);
CREATE INDEX perdure_inbox_workflow ON perdure_inbox (workflow_id);
CREATE INDEX perdure_inbox_worker ON perdure_inbox (worker) WHERE worker IS NOT NULL;
