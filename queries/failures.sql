-- What was given up, and why?
--
-- Blocks of trials and training runs that failed, and training runs that diverged or were stopped early by a search;
-- those of other sweeps too, where these sweeps plan the same.
--
-- Parameters
--   none
--
-- Columns
--   sweep         -         sweep that asked for it
--   what          -         training or trials
--   dataset       -         data set label; NULL: the run is not planned any more
--   model         -         network
--   placement     -         where BN stays
--   train_seed    -         training seed
--   run_id        -         training run
--   targets       -         which parameters are hit; NULL: training
--   bn_treatment  -         what happens to BN around the noise; NULL: training
--   eta           fraction  noise level; NULL: training
--   trials        trials    in the block; NULL: training
--   error         -         the exception's text, or why the run diverged
--   attempt       -         how many attempts were made
--   worker        -         host and process
--   committed_at  UTC       when it was recorded

WITH
network AS (
    SELECT DISTINCT run_id, label.dataset, model, label.placement, train_seed
    FROM plan JOIN label USING (run_id)
),
cell AS (SELECT point_id, targets, bn_treatment, eta FROM planned_point),
given_up AS (
    SELECT failures.sweep, CASE WHEN failures.point_id IS NULL THEN 'training' ELSE 'trials' END AS what,
           dataset, model, placement, train_seed, failures.run_id, targets, bn_treatment, eta, failures.trials, error,
           attempt, worker, committed_at
    FROM failures
    LEFT JOIN network ON network.run_id = failures.run_id
    LEFT JOIN cell ON cell.point_id = failures.point_id
    WHERE failures.sweep IN (FROM scope) OR cell.point_id IS NOT NULL
       OR (failures.point_id IS NULL AND network.run_id IS NOT NULL)
),
spoilt AS (
    SELECT sweep, 'training' AS what, dataset, model, placement, train_seed, run_id, NULL, NULL,
           NULL::DECIMAL(9, 6), NULL, reason, attempt, worker, committed_at
    FROM run
    WHERE status IN ('diverged', 'failed', 'pruned')
      AND run_id NOT IN (SELECT run_id FROM given_up WHERE what = 'training')
),
final AS (
    SELECT * REPLACE (eta::DOUBLE AS eta) FROM (FROM given_up UNION ALL FROM spoilt)
)
SELECT * FROM final
ORDER BY committed_at, run_id, eta
