-- Does the same network keep less of its accuracy on a harder task?
--
-- Figure 4 of the paper: normalized accuracy of the networks that were trained on several data sets. More classes
-- stand for a harder task. Rows of another `recipe` are no evidence about the task.
--
-- Parameters
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset               -         data set label
--   classes               classes   of the data set
--   model                 -         network
--   training              -         digest of recipe and data; see query runs
--   recipe                -         digest of recipe and number of training images, without the data
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

WITH
classes_of AS (SELECT run_id, classes, shared_recipe(recipe, train_images) AS recipe FROM run),
per_run AS (
    SELECT point.*, classes, recipe, accuracy / nullif(a0, 0) AS normalized,
           variance / nullif(a0, 0)^2 AS normalized_variance
    FROM point JOIN classes_of USING (run_id)
    WHERE model = coalesce($model, model)
),
shared AS (SELECT model FROM per_run GROUP BY model HAVING count(DISTINCT dataset) >= 2),
over_seeds AS (
    SELECT dataset, model, training, recipe, placement, bn_kept, bn_sites, bn_mask, classes,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling, eta,
           count(normalized) AS seeds, sum(n) AS n, avg(a0) AS a0, avg(normalized) AS mean,
           stddev_samp(normalized) AS sd_seeds, sqrt(avg(normalized_variance)) AS sd_draws
    FROM per_run SEMI JOIN shared USING (model)
    WHERE normalized IS NOT NULL
    GROUP BY ALL
),
judged AS (
    SELECT *, CASE WHEN eta = 0 THEN exact_width(seeds, n)
                   ELSE half_width(seeds, sd_seeds, n, sd_draws, $confidence) END AS half
    FROM over_seeds
),
final AS (
    SELECT dataset, classes::BIGINT AS classes, model, training, recipe, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           eta::DOUBLE AS eta, seeds::BIGINT AS seeds, n::BIGINT AS n,
           100 * a0 AS baseline_pct, 100 * mean AS normalized_pct,
           low_pct(mean, half) AS low_pct,
           100 * (mean + half) AS high_pct,
           100 * half AS half_width_pct,
           CASE WHEN half IS NOT NULL THEN interval_level(seeds, n) END AS level
    FROM judged
)
SELECT * FROM final
ORDER BY bn_sites, model, bn_kept DESC, placement, noise_model, sigma_reference, targets, bn_treatment,
         recalibration_images, precision, sampling, classes, dataset, training, eta
