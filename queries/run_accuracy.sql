-- How accurate is each single trained network at each noise level?
--
-- One row per training run, noise cell and eta. The interval covers the draws on that network, not what another
-- training seed would give: for that, see query accuracy.
--
-- Parameters
--   run_id      VARCHAR  NULL  only this training run; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   run_id                -         training run
--   dataset               -         data set label
--   model                 -         network
--   placement             -         where BN stays
--   train_seed            -         training seed
--   noise_model           -         noise model
--   sigma_reference       -         what eta multiplies
--   targets               -         which parameters are hit
--   bn_treatment          -         what happens to BN around the noise
--   recalibration_images  images    training images that re-estimate BN; 0 unless recalibrated
--   precision             -         of the forward pass
--   sampling              -         test images per trial: full, random or strata
--   eta                   fraction  noise level, of the sigma reference
--   n                     trials    noise draws
--   accuracy_pct          %         mean accuracy on the full test set
--   low_pct               %         lower end of the interval on accuracy_pct; NULL: no interval
--   high_pct              %         upper end
--   half_width_pct        points    half of the interval's width before it is cut at 0 %
--   normalized_pct        %         accuracy over the clean network's
--   nonfinite_pct         %         scored images with a NaN or infinite logit

WITH
judged AS (
    SELECT *, half_width(1, NULL, n, sqrt(variance), $confidence) AS half
    FROM point
    WHERE run_id = coalesce($run_id, run_id)
),
final AS (
    SELECT run_id, dataset, model, placement, train_seed,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           eta::DOUBLE AS eta, n::BIGINT AS n, 100 * accuracy AS accuracy_pct,
           low_pct(accuracy, half) AS low_pct, high_pct(accuracy, half) AS high_pct, 100 * half AS half_width_pct,
           100 * accuracy / nullif(a0, 0) AS normalized_pct, 100 * nonfinite / nullif(images, 0) AS nonfinite_pct
    FROM judged
)
SELECT * FROM final
ORDER BY dataset, model, placement, train_seed, run_id, bn_treatment, targets, sigma_reference, noise_model,
         recalibration_images, precision, sampling, eta
