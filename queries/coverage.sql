-- What of each sweep is done, what is missing, what failed?
--
-- A point is done when it has the trials that its sweep asks for at least and, where a half-width is wanted, either
-- reaches it or has used all trials that it may. One that is not counts as diverged if its training run did or a search
-- stopped it early (there is no network to perturb), as failed if its training run or a block of it was given up,
-- otherwise as missing.
--
-- Parameters
--   dataset  VARCHAR  NULL  only this data set; NULL: all
--   model    VARCHAR  NULL  only this network; NULL: all
--
-- Columns
--   sweep           -       name of the sweep
--   dataset         -       data set label
--   model           -       network
--   placement       -       where BN stays
--   bn_kept         sites   BN sites that keep BN
--   bn_sites        sites   BN sites of the network
--   train_seed      -       training seed
--   run_id          -       training run
--   status          -       how training ended: converged, finished, diverged, pruned, failed; NULL: not yet
--   planned         points  planned
--   done            points  with all of their trials
--   missing         points  still to do
--   diverged        points  of runs that diverged
--   failed          points  given up
--   planned_trials  trials  asked for, at least
--   trials          trials  landed

WITH
landed AS (SELECT point_id, n, variance FROM measured_point),
given_up AS (SELECT DISTINCT point_id FROM failures WHERE point_id IS NOT NULL),
states AS (
    SELECT plan.* REPLACE (label.dataset AS dataset, label.placement AS placement), run.status,
           least(coalesce(landed.n, 0), plan.max_trials) AS n,
           coalesce(landed.n >= plan.min_trials
                    AND (NOT too_wide(landed.n, variance, plan.half_width, plan.confidence)
                         OR landed.n >= plan.max_trials), false) AS done,
           coalesce(run.status IN ('diverged', 'pruned'), false) AS diverged,
           coalesce(run.status = 'failed', false) OR given_up.point_id IS NOT NULL AS failed
    FROM plan
    JOIN label USING (run_id)
    LEFT JOIN (SELECT run_id, status FROM run) AS run USING (run_id)
    LEFT JOIN landed USING (point_id)
    LEFT JOIN given_up USING (point_id)
    WHERE label.dataset = coalesce($dataset, label.dataset) AND model = coalesce($model, model)
),
final AS (
    SELECT sweep, dataset, model, placement, bn_kept, bn_sites, train_seed, run_id, status,
           count(*) AS planned, count_if(done)::BIGINT AS done,
           count_if(NOT done AND NOT failed AND NOT diverged)::BIGINT AS missing,
           count_if(NOT done AND diverged)::BIGINT AS diverged,
           count_if(NOT done AND failed AND NOT diverged)::BIGINT AS failed,
           sum(min_trials)::BIGINT AS planned_trials, sum(n)::BIGINT AS trials
    FROM states
    GROUP BY ALL
)
SELECT * FROM final
ORDER BY sweep, dataset, bn_sites, model, bn_kept DESC, placement, train_seed, run_id
