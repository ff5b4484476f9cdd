-- How did each training run end?
--
-- Parameters
--   dataset  VARCHAR  NULL  only this data set; NULL: all
--   model    VARCHAR  NULL  only this network; NULL: all
--
-- Columns
--   dataset             -       data set label
--   model               -       network
--   training            -       digest of recipe and data; see query runs
--   placement           -       where BN stays
--   bn_kept             sites   BN sites that keep BN
--   bn_sites            sites   BN sites of the network
--   train_seed          -       training seed
--   run_id              -       training run
--   status              -       converged, finished, diverged or failed
--   reason              -       why it ended so
--   epochs              epochs  planned
--   epochs_run          epochs  completed
--   train_loss          nats    mean cross-entropy over the last epoch
--   train_accuracy_pct  %       over the last epoch, augmented images
--   baseline_pct        %       test accuracy at the end; NULL: no network
--   best_test_pct       %       highest test accuracy after any epoch
--   best_epoch          epochs  the first epoch with it
--   attempt             -       1, or more after a failure
--   duration_s          s       wall time of training
--   device              -       where it was trained

WITH
best AS (
    SELECT run_id, max(test_correct / nullif(test_images, 0)) AS best,
           arg_min(epoch, (-test_correct / nullif(test_images, 0), epoch)) AS best_epoch
    FROM epochs
    GROUP BY run_id
),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, train_seed, run_id,
           status, reason, epochs, epochs_run, train_loss, 100 * train_accuracy AS train_accuracy_pct,
           100 * test_correct / nullif(test_images, 0) AS baseline_pct, 100 * best AS best_test_pct, best_epoch,
           attempt, duration_s, device
    FROM run LEFT JOIN best USING (run_id)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, bn_kept DESC, placement, train_seed
