-- How much of its clean accuracy does each network keep at each noise level?
--
-- Figures 2b and 3b of the paper: A = a/a0 (eq. 13). With several training seeds the mean of the seeds' ratios, its
-- interval from their spread; with one, a0 is a census of the test set for this network, so the interval is that of
-- the draws over a0. Values that all agree have no interval, but for those at eta = 0, where A is 1 by definition.
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset               -         data set label
--   model                 -         network
--   training              -         digest of recipe and data; see query runs
--   placement             -         where BN stays
--   bn_kept               sites     BN sites that keep BN
--   bn_sites              sites     BN sites of the network
--   noise_model           -         noise model
--   sigma_reference       -         what eta multiplies
--   targets               -         which parameters are hit
--   bn_treatment          -         what happens to BN around the noise
--   recalibration_images  images    training images that re-estimate BN; 0 unless recalibrated
--   precision             -         of the forward pass
--   sampling              -         test images per trial: full, random or strata
--   eta                   fraction  noise level, of the sigma reference
--   seeds                 runs      training runs behind the figure
--   n                     trials    noise draws behind it, over all runs
--   baseline_pct          %         a0, accuracy of the clean networks
--   normalized_pct        %         A, mean of a/a0
--   low_pct               %         lower end of the interval on normalized_pct; NULL: no interval
--   high_pct              %         upper end
--   half_width_pct        points    half of the interval's width before it is cut at 0 %
--   level                 -         seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   capped                runs      runs that used all trials they may without reaching the wanted half-width

WITH
per_run AS (
    SELECT *, accuracy / nullif(a0, 0) AS normalized, variance / nullif(a0, 0)^2 AS normalized_variance
    FROM point
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
),
over_seeds AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, bn_mask,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling, eta,
           count(normalized) AS seeds, sum(n) AS n, avg(a0) AS a0, avg(normalized) AS mean,
           stddev_samp(normalized) AS sd_seeds, sqrt(avg(normalized_variance)) AS sd_draws,
           count_if(capped) AS capped
    FROM per_run
    WHERE normalized IS NOT NULL
    GROUP BY ALL
),
judged AS (
    SELECT *, CASE WHEN eta = 0 THEN exact_width(seeds, n)
                   ELSE half_width(seeds, sd_seeds, n, sd_draws, $confidence) END AS half
    FROM over_seeds
),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           eta::DOUBLE AS eta, seeds::BIGINT AS seeds, n::BIGINT AS n,
           100 * a0 AS baseline_pct, 100 * mean AS normalized_pct,
           low_pct(mean, half) AS low_pct,
           100 * (mean + half) AS high_pct,
           100 * half AS half_width_pct,
           CASE WHEN half IS NOT NULL THEN interval_level(seeds, n) END AS level, capped::BIGINT AS capped
    FROM judged
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, bn_kept DESC, placement, eta
