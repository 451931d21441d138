-- Looks by a worker's names, and listings, cost the same however many others are stored.
DROP INDEX perdure_workflows_wake;
CREATE INDEX perdure_workflows_wake ON perdure_workflows (name, wake_at)
    WHERE owner IS NULL AND wake_at IS NOT NULL;
DROP INDEX perdure_workflows_name;
CREATE INDEX perdure_workflows_name ON perdure_workflows (name, status, seq);
-- No index on a step's state: an update that changes no index is written on the step's own page.
DROP INDEX perdure_steps_away;
DROP INDEX perdure_steps_ready;
ALTER TABLE perdure_steps
    ADD COLUMN is_ready boolean GENERATED ALWAYS AS (state = 'ready') STORED,
    ADD COLUMN away_runner text COLLATE "C"
        GENERATED ALWAYS AS (CASE WHEN away AND state = 'started' THEN runner END) STORED;
CREATE INDEX perdure_steps_away ON perdure_steps (away_runner) WHERE away_runner IS NOT NULL;
CREATE INDEX perdure_steps_ready ON perdure_steps (due_at) WHERE is_ready;
