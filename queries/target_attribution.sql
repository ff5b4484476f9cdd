-- What did the noise hit when a network lost its accuracy: weights, biases, BN's affine parameters, its statistics?
--
-- The four target sets are nested: weights, then also biases, then also BN's gamma and beta, then also its running
-- mean and variance. `loss_pct` is what noise on the set costs, `added_pct` what the set costs beyond the next smaller
-- one that was measured, paired by common random numbers (what both sets share is hit by the same draw), over the runs
-- that have rows for this one too. Which step comes first matters: an increment is the cost of hitting these parameters
-- too.
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
--   bn_treatment          -         what happens to BN around the noise
--   recalibration_images  images    training images that re-estimate BN; 0 unless recalibrated
--   precision             -         of the forward pass
--   sampling              -         test images per trial: full, random or strata
--   targets               -         which parameters are hit
--   beyond                -         next smaller target set that was measured; NULL: this is the smallest
--   eta                   fraction  noise level, of the sigma reference
--   seeds                 runs      training runs behind the figure
--   n                     trials    noise draws behind it, over all runs
--   baseline_pct          %         a0, accuracy of the clean networks
--   accuracy_pct          %         accuracy under noise
--   loss_pct              points    a0 less accuracy under noise
--   loss_low_pct          points    lower end of the interval on the loss; NULL: no interval
--   loss_high_pct         points    upper end
--   added_pct             points    loss beyond that of the next smaller set; for the smallest: its loss
--   added_low_pct         points    lower end of the interval on it; NULL: no interval of this level
--   added_high_pct        points    upper end
--   level                 -         seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   nonfinite_pct         %         share of scored images with a NaN or infinite logit, mean of the runs

WITH
chosen AS (
    SELECT *, list_position(['weights', 'weights+bias', 'weights+bias+affine', 'all'], targets) AS step
    FROM planned_point
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
      AND eta > 0
    QUALIFY row_number() OVER (PARTITION BY curve, eta ORDER BY max_trials DESC, point_id) = 1
),
nested AS (
    SELECT *, lag(point_id) OVER smaller AS smaller_id, lag(targets) OVER smaller AS own_beyond
    FROM chosen SEMI JOIN measured_point USING (point_id)
    WINDOW smaller AS (
        PARTITION BY run_id, noise_model, sigma_reference, bn_treatment, recalibration_images, precision, sampling, eta
        ORDER BY step
    )
),
pairs AS (
    -- the same draw on the next smaller set; for the smallest, on nothing: the clean network
    SELECT nested.point_id, hit.accuracy - smaller.accuracy AS difference
    FROM counted AS hit
    JOIN nested USING (point_id)
    JOIN counted AS smaller
        ON smaller.point_id = nested.smaller_id AND smaller.trial = hit.trial AND smaller.noise_seed = hit.noise_seed
),
increments AS (
    SELECT point_id, count(*) AS paired, -avg(difference) AS added, var_samp(difference) AS added_variance
    FROM pairs
    GROUP BY point_id
),
-- Until all cells have rows, the next smaller set of one run may be another one than that of its fellows. The series
-- has the largest of them (these names sort as the sets are nested), and runs without it have no increment yet.
of_series AS (SELECT *, max(own_beyond) OVER (PARTITION BY series, eta) AS beyond FROM nested),
per_run AS (
    SELECT of_series.* EXCLUDE (smaller_id, own_beyond), n, a0, accuracy, a0 - accuracy AS loss,
           variance AS loss_variance, nonfinite / images AS nonfinite,
           CASE WHEN beyond IS NULL THEN a0 - accuracy WHEN beyond = own_beyond THEN added END AS added,
           CASE WHEN beyond IS NULL THEN variance WHEN beyond = own_beyond THEN added_variance END AS added_variance,
           CASE WHEN beyond IS NULL THEN n WHEN beyond = own_beyond THEN paired END AS paired
    FROM of_series
    JOIN (SELECT point_id, n, a0, accuracy, variance, nonfinite, images FROM measured_point) AS measured
        USING (point_id)
    LEFT JOIN increments USING (point_id)
),
over_seeds AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, bn_mask,
           noise_model, sigma_reference, bn_treatment, recalibration_images, precision, sampling, targets, step, eta,
           beyond, count(*) AS seeds, sum(n) AS n, sum(paired) AS paired, count(added) AS paired_seeds,
           avg(a0) AS a0, avg(accuracy) AS accuracy,
           avg(loss) AS loss, stddev_samp(loss) AS loss_sd_seeds, sqrt(avg(loss_variance)) AS loss_sd_draws,
           avg(added) AS added, stddev_samp(added) AS added_sd_seeds, sqrt(avg(added_variance)) AS added_sd_draws,
           avg(nonfinite) AS nonfinite
    FROM per_run
    GROUP BY ALL
),
judged AS (
    SELECT *, half_width(seeds, loss_sd_seeds, n, loss_sd_draws, $confidence) AS loss_half,
           -- a set that adds no parameters to the smaller one, as BN's where there is no BN, adds no loss in any draw
           CASE WHEN interval_level(paired_seeds, paired) = interval_level(seeds, n) THEN
               coalesce(half_width(paired_seeds, added_sd_seeds, paired, added_sd_draws, $confidence),
                        CASE WHEN added = 0 THEN exact_width(paired_seeds, paired) END)
           END AS added_half
    FROM over_seeds
),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, bn_treatment, recalibration_images, precision, sampling, targets, beyond,
           eta::DOUBLE AS eta, seeds::BIGINT AS seeds, n::BIGINT AS n,
           100 * a0 AS baseline_pct, 100 * accuracy AS accuracy_pct,
           100 * loss AS loss_pct, 100 * (loss - loss_half) AS loss_low_pct, 100 * (loss + loss_half) AS loss_high_pct,
           100 * added AS added_pct, 100 * (added - added_half) AS added_low_pct,
           100 * (added + added_half) AS added_high_pct,
           CASE WHEN loss_half IS NOT NULL THEN interval_level(seeds, n) END AS level,
           100 * nonfinite AS nonfinite_pct, step
    FROM judged
)
SELECT * EXCLUDE (step) FROM final
ORDER BY dataset, bn_sites, model, training, bn_kept DESC, placement, noise_model, sigma_reference, bn_treatment,
         recalibration_images, precision, sampling, eta, step
