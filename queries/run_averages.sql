-- What is the average normalized accuracy of each single trained network?
--
-- One row per training run and noise cell whose every planned eta has rows: the points behind query tradeoff.
--
-- Parameters
--   dataset  VARCHAR  NULL  only this data set; NULL: all
--   model    VARCHAR  NULL  only this network; NULL: all
--
-- Columns
--   run_id                  -       training run
--   dataset                 -       data set label
--   model                   -       network
--   training                -       digest of recipe and data; see query runs
--   placement               -       where BN stays
--   bn_kept                 sites   BN sites that keep BN
--   bn_sites                sites   BN sites of the network
--   train_seed              -       training seed
--   noise_model             -       noise model
--   sigma_reference         -       what eta multiplies
--   targets                 -       which parameters are hit
--   bn_treatment            -       what happens to BN around the noise
--   recalibration_images    images  training images that re-estimate BN; 0 unless recalibrated
--   precision               -       of the forward pass
--   sampling                -       test images per trial: full, random or strata
--   etas                    levels  eta above 0 that are averaged
--   n                       trials  noise draws behind it
--   baseline_pct            %       a0, accuracy of the clean network
--   average_normalized_pct  %       A_avr of this network

WITH
final AS (
    SELECT run_id, dataset, model, training, placement, bn_kept, bn_sites, train_seed,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           etas::BIGINT AS etas, n::BIGINT AS n, 100 * a0 AS baseline_pct,
           100 * average_normalized AS average_normalized_pct
    FROM curve
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, bn_kept DESC, placement, train_seed, run_id
