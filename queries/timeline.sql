-- Who worked on what, and when?
--
-- Training runs, and blocks of noise trials: the trials of one point by one worker.
--
-- Parameters
--   none
--
-- Columns
--   worker      -         host and process
--   kind        -         training or trials
--   dataset     -         data set label
--   model       -         network
--   placement   -         where BN stays
--   train_seed  -         training seed
--   run_id      -         training run
--   eta         fraction  noise level; NULL: training
--   trials      trials    in the block; NULL: training
--   start_s     s         since the first work of all began
--   end_s       s         since then
--   started_at  UTC       when it began
--   device      -         where it ran

WITH
blocks AS (
    SELECT worker, 'trials' AS kind, dataset, model, placement, train_seed, run_id, eta, count(*) AS trials,
           min(started_at) AS started_at,
           max(started_at + to_microseconds((1e6 * duration_s)::BIGINT)) AS ended_at, any_value(device) AS device
    FROM (SELECT point_id, worker, device, started_at, duration_s FROM counted) JOIN planned_point USING (point_id)
    GROUP BY worker, dataset, model, placement, train_seed, run_id, eta, point_id
),
training_runs AS (
    SELECT worker, 'training' AS kind, dataset, model, placement, train_seed, run_id, NULL::DECIMAL(9, 6) AS eta,
           NULL::BIGINT AS trials, started_at,
           started_at + to_microseconds((1e6 * duration_s)::BIGINT) AS ended_at, device
    FROM run
),
everything AS (FROM training_runs UNION ALL FROM blocks),
final AS (
    SELECT worker, kind, dataset, model, placement, train_seed, run_id, eta::DOUBLE AS eta, trials,
           epoch_us(started_at - min(started_at) OVER ()) / 1e6 AS start_s,
           epoch_us(ended_at - min(started_at) OVER ()) / 1e6 AS end_s, started_at, device
    FROM everything
)
SELECT * FROM final
ORDER BY start_s, worker, run_id, eta
