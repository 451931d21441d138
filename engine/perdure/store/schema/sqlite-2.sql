-- Looks by a worker's names, and listings, cost the same however many others are stored.
DROP INDEX perdure_workflows_wake;
CREATE INDEX perdure_workflows_wake ON perdure_workflows (name, wake_at)
    WHERE owner IS NULL AND wake_at IS NOT NULL;
DROP INDEX perdure_workflows_name;
CREATE INDEX perdure_workflows_name ON perdure_workflows (name, status, seq);
-- The oldest created event of a name is the first of its index.
DROP INDEX perdure_events_created;
CREATE INDEX perdure_events_created ON perdure_events (workflow_id, name, made)
    WHERE sequence IS NULL;
