-- What was trained and scored, what came of it, and how long did it take?
--
-- One row per network, recipe and placement: the sums over its training runs.
--
-- Parameters
--   dataset  VARCHAR  NULL  only this data set; NULL: all
--   model    VARCHAR  NULL  only this network; NULL: all
--
-- Columns
--   dataset            -       data set label
--   model              -       network
--   training           -       digest of recipe and data; see query runs
--   placement          -       where BN stays
--   bn_kept            sites   BN sites that keep BN
--   bn_sites           sites   BN sites of the network
--   train_images       images  training images
--   epochs             epochs  planned
--   learning_rate      -       initial
--   train_precision    -       of the training's passes
--   networks           runs    training runs
--   test_accuracy_pct  %       of the trained networks, mean
--   least_pct          %       of the worst of them
--   most_pct           %       of the best of them
--   train_loss         nats    mean cross-entropy over the last epoch, mean of the networks where it is finite
--   train_s            s       wall time of all training runs
--   trials             trials  noise draws on these networks
--   trial_s            s       wall time of all draws
--   device             -       where they were trained
--   versions           -       bnsweep, torch and Python

WITH
scored AS (
    SELECT run_id, count(*) AS trials, sum(duration_s) AS trial_s
    FROM counted SEMI JOIN planned_point USING (point_id)
    GROUP BY run_id
),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, train_images, epochs, learning_rate, train_precision,
           count(*) AS networks, 100 * avg(test_correct / test_images) AS test_accuracy_pct,
           100 * min(test_correct / test_images) AS least_pct, 100 * max(test_correct / test_images) AS most_pct,
           avg(train_loss) FILTER (isfinite(train_loss)) AS train_loss, sum(duration_s) AS train_s,
           sum(coalesce(trials, 0))::BIGINT AS trials, sum(coalesce(trial_s, 0)) AS trial_s,
           string_agg(DISTINCT device, ', ' ORDER BY device) AS device,
           string_agg(DISTINCT versions, '; ' ORDER BY versions) AS versions
    FROM run LEFT JOIN scored USING (run_id)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
    GROUP BY dataset, model, training, placement, bn_kept, bn_sites, train_images, epochs, learning_rate,
             train_precision
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, learning_rate, training, bn_kept DESC, placement
