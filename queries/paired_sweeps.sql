-- How much better or worse is one sweep than another, draw by draw?
--
-- The same network, placement, training seed, noise cell and eta in two sweeps that differ in something else: the
-- recipe, the precision, the images. Trials are paired where both have the same noise draw, which they have unless
-- `noise_seed` or the data differ; intervals as in query paired. A row that both sweeps share is not compared with
-- itself: `same_rows` says how many those are, and where they are all, there is no difference to tell.
--
-- Parameters
--   a           VARCHAR  NULL  sweep that is compared; NULL: no rows
--   b           VARCHAR  NULL  with this one
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset               -         data set label
--   model                 -         network
--   placement             -         where BN stays
--   a                     -         sweep
--   b                     -         sweep
--   noise_model           -         noise model
--   sigma_reference       -         what eta multiplies
--   targets               -         which parameters are hit
--   bn_treatment          -         what happens to BN around the noise
--   recalibration_images  images    training images that re-estimate BN; 0 unless recalibrated
--   eta                   fraction  noise level, of the sigma reference
--   seeds                 runs      training seeds that both sweeps have
--   n                     trials    pairs of draws, over all seeds
--   same_rows             trials    draws left out, as both sweeps have them in common
--   a_pct                 %         accuracy in sweep a
--   b_pct                 %         accuracy in sweep b
--   difference_pct        points    accuracy in a less accuracy in b
--   low_pct               points    lower end of the interval on the difference; NULL: no interval
--   high_pct              points    upper end
--   half_width_pct        points    half of the interval's width
--   level                 -         seeds: covers training seeds and draws; draws: these networks only; NULL: none

WITH
labelled AS (SELECT plan.* REPLACE (label.dataset AS dataset) FROM plan JOIN label USING (run_id)),
chosen AS (SELECT * FROM labelled WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)),
both_sweeps AS (
    SELECT a.point_id AS a_id, b.point_id AS b_id, a.placement, dataset, model, bn_mask, train_seed,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, eta
    FROM (FROM chosen WHERE sweep = $a) AS a
    JOIN (FROM chosen WHERE sweep = $b) AS b
        USING (dataset, model, bn_mask, train_seed, noise_model, sigma_reference, targets, bn_treatment,
               recalibration_images, eta)
),
pairs AS (
    SELECT both_sweeps.* EXCLUDE (a_id, b_id), a_id = b_id AS same,
           CASE WHEN NOT same THEN a.accuracy END AS a, CASE WHEN NOT same THEN b.accuracy END AS b,
           CASE WHEN NOT same THEN a.accuracy - b.accuracy END AS difference
    FROM both_sweeps
    JOIN counted AS a ON a.point_id = a_id
    JOIN counted AS b ON b.point_id = b_id AND b.trial = a.trial AND b.noise_seed = a.noise_seed
),
per_seed AS (
    SELECT dataset, model, bn_mask, any_value(placement) AS placement, train_seed,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, eta,
           count(difference) AS n, count_if(same) AS same_rows,
           avg(a) AS a, avg(b) AS b, avg(difference) AS difference, var_samp(difference) AS variance
    FROM pairs
    GROUP BY ALL
),
over_seeds AS (
    SELECT dataset, model, bn_mask, any_value(placement) AS placement,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, eta,
           count(difference) AS seeds, sum(n) AS n, sum(same_rows) AS same_rows,
           avg(a) AS a, avg(b) AS b, avg(difference) AS difference,
           stddev_samp(difference) AS sd_seeds, sqrt(avg(variance)) AS sd_draws
    FROM per_seed
    GROUP BY ALL
),
judged AS (SELECT *, half_width(seeds, sd_seeds, n, sd_draws, $confidence) AS half FROM over_seeds),
final AS (
    SELECT dataset, model, placement, $a::VARCHAR AS a, $b::VARCHAR AS b,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, eta::DOUBLE AS eta,
           seeds::BIGINT AS seeds, n::BIGINT AS n, same_rows::BIGINT AS same_rows,
           100 * judged.a AS a_pct, 100 * judged.b AS b_pct,
           100 * difference AS difference_pct, 100 * (difference - half) AS low_pct,
           100 * (difference + half) AS high_pct, 100 * half AS half_width_pct,
           CASE WHEN half IS NOT NULL THEN interval_level(seeds, n) END AS level
    FROM judged
)
SELECT * FROM final
ORDER BY dataset, model, placement, noise_model, sigma_reference, targets, bn_treatment, recalibration_images, eta
