-- How much of its clean accuracy does each network keep on average over the noise levels?
--
-- Table IV of the paper: A_avr, the mean of a/a0 over the eta above 0 (eq. 14), which are the same for all placements
-- and seeds of a network (`grid` in 00_views.sql). Training runs of which one of them has no rows are left out.
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
--   average_normalized_pct  %       A_avr
--   low_pct                 %       lower end of the interval on average_normalized_pct; NULL: no interval
--   high_pct                %       upper end
--   half_width_pct          points  half of the interval's width before it is cut at 0 %
--   level                   -       seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   capped                  runs    runs that at some eta used all trials they may, and stayed wider than wanted

WITH
averaged AS (
    FROM averages($confidence)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           etas::BIGINT AS etas, seeds::BIGINT AS seeds, n::BIGINT AS n, 100 * a0 AS baseline_pct,
           100 * mean AS average_normalized_pct, low_pct(mean, half) AS low_pct, 100 * (mean + half) AS high_pct,
           100 * half AS half_width_pct, level, capped::BIGINT AS capped
    FROM averaged
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, bn_kept DESC, placement
