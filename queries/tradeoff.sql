-- Which placements give the most accuracy for the noise resistance they cost?
--
-- A placement is efficient if no other one of the same network has both a higher baseline and a higher A_avr.
--
-- Interval: see `averages` in 00_views.sql.
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset                 -       data set label
--   model                   -       network
--   training                -       digest of recipe and data; see query runs
--   placement               -       where BN stays
--   bn_kept                 sites   BN sites that keep BN
--   bn_sites                sites   BN sites of the network
--   noise_model             -       noise model
--   sigma_reference         -       what eta multiplies
--   targets                 -       which parameters are hit
--   bn_treatment            -       what happens to BN around the noise
--   recalibration_images    images  training images that re-estimate BN; 0 unless recalibrated
--   precision               -       of the forward pass
--   sampling                -       test images per trial: full, random or strata
--   etas                    levels  eta above 0 that are averaged
--   seeds                   runs    training runs behind the figure
--   n                       trials  noise draws behind it, over all runs
--   baseline_pct            %       a0, accuracy of the clean networks
--   baseline_low_pct        %       lower end of the interval over training seeds; NULL: no interval
--   baseline_high_pct       %       upper end
--   average_normalized_pct  %       A_avr
--   low_pct                 %       lower end of the interval on average_normalized_pct; NULL: no interval
--   high_pct                %       upper end
--   half_width_pct          points  half of the interval's width before it is cut at 0 %
--   level                   -       seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   efficient               -       no other placement is better in both

WITH
averaged AS (
    FROM averages($confidence)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
),
compared AS (
    SELECT averaged.*,
           half_width(seeds, sd_a0, 0, NULL, $confidence) AS half_a0,
           NOT EXISTS (
               FROM averaged AS other
               WHERE other.dataset = averaged.dataset AND other.model = averaged.model
                 AND other.training = averaged.training
                 AND other.noise_model = averaged.noise_model AND other.sigma_reference = averaged.sigma_reference
                 AND other.targets = averaged.targets AND other.bn_treatment = averaged.bn_treatment
                 AND other.recalibration_images = averaged.recalibration_images
                 AND other.precision = averaged.precision AND other.sampling = averaged.sampling
                 AND other.a0 >= averaged.a0 AND other.mean >= averaged.mean
                 AND (other.a0 > averaged.a0 OR other.mean > averaged.mean)
           ) AS efficient
    FROM averaged
),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           etas::BIGINT AS etas, seeds::BIGINT AS seeds, n::BIGINT AS n, 100 * a0 AS baseline_pct,
           low_pct(a0, half_a0) AS baseline_low_pct, high_pct(a0, half_a0) AS baseline_high_pct,
           100 * mean AS average_normalized_pct, low_pct(mean, half) AS low_pct, 100 * (mean + half) AS high_pct,
           100 * half AS half_width_pct, level,
           efficient
    FROM compared
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, bn_kept DESC, placement
