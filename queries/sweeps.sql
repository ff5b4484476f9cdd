-- How far is each sweep?
--
-- A sweep is its newest version. States as in query coverage.
--
-- Parameters
--   none
--
-- Columns
--   sweep          -       name of the sweep
--   planned_runs   runs    training runs
--   trained        runs    that ended with a network
--   diverged_runs  runs    that ended without a network to perturb
--   failed_runs    runs    given up
--   planned        points  planned
--   done           points  with all of their trials
--   missing        points  still to do
--   diverged       points  of runs that diverged
--   failed         points  given up
--   trials         trials  landed
--   asked_at       UTC     when this version was run first
--   latest_at      UTC     when its newest trial was committed; NULL: none yet

WITH
landed AS (SELECT point_id, count(*) AS n, max(committed_at) AS latest_at FROM counted GROUP BY point_id),
given_up AS (SELECT DISTINCT point_id FROM failures WHERE point_id IS NOT NULL),
states AS (
    SELECT plan.sweep, plan.run_id, run.status, landed.latest_at, least(coalesce(landed.n, 0), plan.max_trials) AS n,
           coalesce(landed.n >= plan.min_trials
                    AND (NOT too_wide(landed.n, variance, plan.half_width, plan.confidence)
                         OR landed.n >= plan.max_trials), false) AS done,
           coalesce(run.status IN ('diverged', 'pruned'), false) AS diverged,
           coalesce(run.status = 'failed', false) OR given_up.point_id IS NOT NULL AS failed
    FROM plan
    LEFT JOIN (SELECT run_id, status FROM run) AS run USING (run_id)
    LEFT JOIN landed USING (point_id)
    LEFT JOIN (SELECT point_id, variance FROM measured_point) AS width USING (point_id)
    LEFT JOIN given_up USING (point_id)
),
final AS (
    SELECT sweep.sweep, sweep.planned_runs,
           count(DISTINCT run_id) FILTER (status IN ('converged', 'finished')) AS trained,
           count(DISTINCT run_id) FILTER (status IN ('diverged', 'pruned')) AS diverged_runs,
           count(DISTINCT run_id) FILTER (status = 'failed') AS failed_runs,
           count(states.sweep) AS planned, count(*) FILTER (done) AS done,
           count(*) FILTER (NOT done AND NOT failed AND NOT diverged) AS missing,
           count(*) FILTER (NOT done AND diverged) AS diverged,
           count(*) FILTER (NOT done AND failed AND NOT diverged) AS failed,
           coalesce(sum(n), 0)::BIGINT AS trials,
           any_value(sweep.committed_at) AS asked_at, max(latest_at) AS latest_at
    FROM sweep LEFT JOIN states ON states.sweep = sweep.sweep
    GROUP BY ALL
)
SELECT * FROM final
ORDER BY sweep
