-- How did loss and accuracy move while each network was trained?
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
--   epoch               epochs  1-based
--   train_loss          nats    mean cross-entropy over the epoch
--   train_accuracy_pct  %       over the epoch, augmented images
--   test_accuracy_pct   %       after the epoch
--   learning_rate       -       at the epoch's last step
--   duration_s          s       wall time of the epoch

WITH
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, train_seed, run_id,
           epoch, epochs.train_loss, 100 * epochs.train_accuracy AS train_accuracy_pct,
           100 * epochs.test_correct / nullif(epochs.test_images, 0) AS test_accuracy_pct, epochs.learning_rate,
           epochs.duration_s
    FROM run JOIN epochs USING (run_id)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, bn_kept DESC, placement, train_seed, epoch
