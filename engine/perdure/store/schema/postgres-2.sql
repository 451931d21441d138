-- Looks by a worker's names, and listings, cost the same however many others are stored.
DROP INDEX perdure_workflows_wake;
CREATE INDEX perdure_workflows_wake ON perdure_workflows (name, wake_at)
    WHERE owner IS NULL AND wake_at IS NOT NULL;
DROP INDEX perdure_workflows_name;
CREATE INDEX perdure_workflows_name ON perdure_workflows (name, status, seq);
-- A commit may be one statement that names the session of its worker.
ALTER TABLE perdure_workers ADD COLUMN session bigint NOT NULL DEFAULT 0;
-- What CHECKs said is said by triggers, which cost a step less.
DO $$
    DECLARE
        each record;
    BEGIN
        FOR each IN
            SELECT conrelid::regclass AS of_table, conname FROM pg_constraint
            WHERE contype = 'c'
                AND conrelid IN (
                    'perdure_workers'::regclass,
                    'perdure_workflows'::regclass,
                    'perdure_steps'::regclass
                )
        LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', each.of_table, each.conname);
        END LOOP;
    END
$$;
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
ALTER TABLE perdure_workflows ADD CHECK ((position >= 0) = (started_at IS NOT NULL));
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
CREATE TRIGGER perdure_check_workflow
    BEFORE INSERT OR UPDATE OF
        status, epoch, ended_at, value, error, owner, wake_at, parent_id, parent_number
    ON perdure_workflows FOR EACH ROW EXECUTE FUNCTION perdure_check_workflow();
-- No index on a step's state: an update that changes no index is written on the step's own page.
DROP INDEX perdure_steps_away;
DROP INDEX perdure_steps_ready;
ALTER TABLE perdure_steps
    ADD COLUMN is_ready boolean NOT NULL DEFAULT false,
    ADD COLUMN away_runner text COLLATE "C";
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
UPDATE perdure_steps SET state = state WHERE state IN ('ready', 'started');
CREATE INDEX perdure_steps_away ON perdure_steps (away_runner) WHERE away_runner IS NOT NULL;
CREATE INDEX perdure_steps_ready ON perdure_steps (due_at) WHERE is_ready;
-- The oldest created event of a name is the first of its index.
DROP INDEX perdure_events_created;
CREATE INDEX perdure_events_created ON perdure_events (workflow_id, name, made)
    WHERE sequence IS NULL;
