-- How much better or worse is one placement than another, draw by draw?
--
-- Trial t has the same noise in every placement for the parameters that they share (common random numbers), so
-- placements are compared pairwise: first per training seed, draw by draw, then over training seeds (t interval on the
-- seeds' differences). With one seed the interval is over its paired draws. `narrower` says how many times wider the
-- interval would be, were the draws of the two placements unrelated. Differences that all agree say nothing of their
-- spread: no interval, but for the normalized one at eta = 0, which is 0 by definition.
--
-- Parameters
--   a           VARCHAR  'all'   placement that is compared
--   b           VARCHAR  'none'  with this one
--   dataset     VARCHAR  NULL    only this data set; NULL: all
--   model       VARCHAR  NULL    only this network; NULL: all
--   confidence  DOUBLE   0.95    of every interval
--
-- Columns
--   dataset                    -         data set label
--   model                      -         network
--   training                   -         digest of recipe and data; see query runs
--   a                          -         placement
--   b                          -         placement
--   noise_model                -         noise model
--   sigma_reference            -         what eta multiplies
--   targets                    -         which parameters are hit
--   bn_treatment               -         what happens to BN around the noise
--   recalibration_images       images    training images that re-estimate BN; 0 unless recalibrated
--   precision                  -         of the forward pass
--   sampling                   -         test images per trial: full, random or strata
--   eta                        fraction  noise level, of the sigma reference
--   seeds                      runs      training seeds that both placements have
--   n                          trials    pairs of draws, over all seeds
--   a_pct                      %         accuracy with placement a
--   b_pct                      %         accuracy with placement b
--   difference_pct             points    accuracy with a less accuracy with b
--   low_pct                    points    lower end of the interval on the difference; NULL: no interval
--   high_pct                   points    upper end
--   half_width_pct             points    half of the interval's width
--   level                      -         seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   unpaired_half_width_pct    points    half-width had the pairs been ignored (same degrees of freedom)
--   narrower                   times     unpaired over paired standard error between draws; NULL: no spread
--   normalized_difference_pct  points    a/a0 with a less a/a0 with b
--   normalized_low_pct         points    lower end of the interval on it; NULL: no interval
--   normalized_high_pct        points    upper end

WITH
chosen AS (
    SELECT * FROM planned_point
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
      AND placement IN ($a, $b)
),
both_placements AS (
    SELECT a.point_id AS a_id, b.point_id AS b_id, dataset, model, training, train_seed,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling, eta
    FROM (FROM chosen WHERE placement = $a) AS a
    JOIN (FROM chosen WHERE placement = $b) AS b
        USING (dataset, model, training, train_seed, noise_model, sigma_reference, targets, bn_treatment,
               recalibration_images, precision, sampling, eta)
),
clean AS (SELECT point_id, a0 FROM measured_point),
pairs AS (
    SELECT both_placements.* EXCLUDE (a_id, b_id), a.accuracy AS a, b.accuracy AS b,
           a.accuracy - b.accuracy AS difference,
           a.accuracy / nullif(clean_a.a0, 0) - b.accuracy / nullif(clean_b.a0, 0) AS normalized
    FROM both_placements
    JOIN clean AS clean_a ON clean_a.point_id = a_id
    JOIN clean AS clean_b ON clean_b.point_id = b_id
    JOIN counted_once AS a ON a.point_id = a_id
    JOIN counted_once AS b ON b.point_id = b_id AND b.trial = a.trial AND b.noise_seed = a.noise_seed
),
per_seed AS (
    SELECT dataset, model, training, train_seed,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling, eta,
           count(*) AS n, avg(a) AS a, avg(b) AS b, avg(difference) AS difference, avg(normalized) AS normalized,
           var_samp(difference) AS variance, var_samp(normalized) AS normalized_variance,
           var_samp(a) AS variance_a, var_samp(b) AS variance_b
    FROM pairs
    GROUP BY ALL
),
over_seeds AS (
    SELECT dataset, model, training,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling, eta,
           count(*) AS seeds, sum(n) AS n, avg(a) AS a, avg(b) AS b, avg(difference) AS difference,
           avg(normalized) AS normalized, stddev_samp(difference) AS sd_seeds,
           stddev_samp(normalized) AS normalized_sd_seeds, sqrt(avg(variance)) AS sd_draws,
           sqrt(avg(normalized_variance)) AS normalized_sd_draws,
           sqrt(avg(variance_a) + avg(variance_b)) AS unpaired_sd_draws,
           sqrt(var_samp(a) + var_samp(b)) AS unpaired_sd_seeds
    FROM per_seed
    GROUP BY ALL
),
judged AS (
    -- 0, not 1e-17
    SELECT * REPLACE (CASE WHEN eta = 0 AND normalized IS NOT NULL THEN 0 ELSE normalized END AS normalized),
           half_width(seeds, sd_seeds, n, sd_draws, $confidence) AS half,
           half_width(seeds, unpaired_sd_seeds, n, unpaired_sd_draws, $confidence) AS unpaired_half,
           CASE WHEN eta = 0 THEN exact_width(seeds, n)
                ELSE half_width(seeds, normalized_sd_seeds, n, normalized_sd_draws, $confidence)
           END AS normalized_half
    FROM over_seeds
),
final AS (
    SELECT dataset, model, training, $a AS a, $b AS b,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           eta::DOUBLE AS eta, seeds::BIGINT AS seeds, n::BIGINT AS n, 100 * judged.a AS a_pct, 100 * judged.b AS b_pct,
           100 * difference AS difference_pct, 100 * (difference - half) AS low_pct,
           100 * (difference + half) AS high_pct, 100 * half AS half_width_pct,
           CASE WHEN half IS NOT NULL THEN interval_level(seeds, n) END AS level,
           100 * unpaired_half AS unpaired_half_width_pct,
           -- equal differences of unequal accuracies leave a rounding error, far below the spread of any one image
           CASE WHEN sd_draws > 1e-9 * unpaired_sd_draws THEN unpaired_sd_draws / sd_draws END AS narrower,
           100 * normalized AS normalized_difference_pct,
           100 * (normalized - normalized_half) AS normalized_low_pct,
           100 * (normalized + normalized_half) AS normalized_high_pct
    FROM judged
)
SELECT * FROM final
ORDER BY dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision,
         sampling, eta
