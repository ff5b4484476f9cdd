-- How accurate is each network at each noise level, and how sure is that?
--
-- Tables II and III and Figures 2a and 3a of the paper, one row per network, noise cell and eta. The mean is over
-- training seeds of means over noise draws. Values that all agree say nothing of their spread: no interval.
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
--   accuracy_pct          %         mean accuracy on the full test set
--   low_pct               %         lower end of the interval on accuracy_pct; NULL: no interval
--   high_pct              %         upper end
--   half_width_pct        points    half of the interval's width before it is cut at 0 %
--   level                 -         seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   sd_seeds_pct          points    standard deviation between training seeds (ddof 1)
--   sd_draws_pct          points    standard deviation between draws on one network (ddof 1), pooled over runs
--   min_pct               %         worst draw
--   p05_pct               %         5th percentile of draws
--   nonfinite_pct         %         share of scored images with a NaN or infinite logit, mean of the runs
--   realised_sigma_ratio  fraction  measured noise over the sigma reference; compare with eta
--   capped                runs      runs that used all trials they may without reaching the wanted half-width

WITH
per_run AS (
    FROM point
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
),
over_draws AS (
    SELECT series, eta, min(accuracy) AS lowest, quantile_cont(accuracy, 0.05) AS p05,
           avg(realised_sigma_ratio) AS realised_sigma_ratio
    FROM trial
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
    GROUP BY ALL
),
over_seeds AS (
    SELECT series, dataset, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling, eta,
           count(*) AS seeds, sum(n) AS n, avg(accuracy) AS mean, stddev_samp(accuracy) AS sd_seeds,
           sqrt(sum((n - 1) * spread) / nullif(sum(n) - count(*), 0)) AS sd_draws,
           sqrt(avg(variance)) AS sd_interval, avg(nonfinite / images) AS nonfinite,
           count_if(capped) AS capped
    FROM per_run
    GROUP BY ALL
),
judged AS (SELECT *, half_width(seeds, sd_seeds, n, sd_interval, $confidence) AS half FROM over_seeds),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           eta::DOUBLE AS eta, seeds::BIGINT AS seeds, n::BIGINT AS n, 100 * mean AS accuracy_pct,
           low_pct(mean, half) AS low_pct,
           high_pct(mean, half) AS high_pct,
           100 * half AS half_width_pct,
           CASE WHEN half IS NOT NULL THEN interval_level(seeds, n) END AS level,
           100 * sd_seeds AS sd_seeds_pct, 100 * sd_draws AS sd_draws_pct,
           100 * lowest AS min_pct, 100 * p05 AS p05_pct, 100 * nonfinite AS nonfinite_pct,
           realised_sigma_ratio, capped::BIGINT AS capped
    FROM judged JOIN over_draws USING (series, eta)
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, bn_kept DESC, placement, eta
