-- What exactly was trained, with which recipe, on which data?
--
-- One row per training run, by its last attempt.
--
-- Parameters
--   dataset  VARCHAR  NULL  only this data set; NULL: all
--   model    VARCHAR  NULL  only this network; NULL: all
--
-- Columns
--   sweep              -           sweep that asked for the run first
--   dataset            -           data set label
--   model              -           network
--   training           -           digest of recipe and data; see query runs
--   placement          -           where BN stays
--   bn_kept            sites       BN sites that keep BN
--   bn_sites           sites       BN sites of the network
--   train_seed         -           training seed
--   run_id             -           training run
--   status             -           converged, finished, diverged or failed
--   epochs             epochs      planned
--   batch_size         images      per step
--   optimizer          -           adam or sgd
--   learning_rate      -           initial
--   schedule           -           constant, step or cosine
--   weight_decay       -           L2 coefficient on kernels
--   train_precision    -           of the training's passes
--   data_fingerprint   -           digest of images and labels
--   train_images       images      training images
--   test_images        images      test images
--   classes            classes     of the data set
--   parameters         parameters  trainable, of the placed network
--   multiply_adds      -           of one image's forward pass
--   checkpoint_sha256  -           digest of the trained network; NULL: none
--   recipe             -           the whole training recipe as JSON
--   device             -           where it was trained
--   worker             -           host and process
--   started_at         UTC         when training began
--   duration_s         s           wall time
--   versions           -           bnsweep, torch and Python

WITH
final AS (
    SELECT sweep, dataset, model, training, placement, bn_kept, bn_sites, train_seed, run_id,
           status, epochs, batch_size, optimizer, learning_rate, schedule, weight_decay, train_precision,
           data_fingerprint, train_images, test_images, classes, parameters, multiply_adds, checkpoint_sha256, recipe,
           device, worker, started_at, duration_s, versions
    FROM run
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, bn_kept DESC, placement, train_seed
