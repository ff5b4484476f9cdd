-- How much less of its accuracy does a network keep with BN everywhere, for each way of putting noise on it?
--
-- The paper's comparison, one row per network and noise cell: A_avr with BN everywhere less A_avr without BN (or with
-- the fewest BN layers that the network was trained with), paired by training seed. `change_points` is what the cell
-- changes about that against noise on all parameters with BN left as it is (stale), again paired by seed: what of the
-- effect is due to BN's own parameters, or goes when BN is folded or its statistics are estimated anew.
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset               -       data set label
--   model                 -       network
--   training              -       digest of recipe and data; see query runs
--   fewest                -       placement that BN everywhere is compared with
--   noise_model           -       noise model
--   sigma_reference       -       what eta multiplies
--   targets               -       which parameters are hit
--   bn_treatment          -       what happens to BN around the noise
--   recalibration_images  images  training images that re-estimate BN; 0 unless recalibrated
--   precision             -       of the forward pass
--   sampling              -       test images per trial: full, random or strata
--   seeds                 runs    training seeds that both placements have
--   n                     trials  noise draws behind it, over all runs
--   everywhere_pct        %       A_avr with BN everywhere
--   fewest_pct            %       A_avr of the other placement
--   effect_points         points  everywhere_pct less fewest_pct: below 0, BN makes the network less robust
--   low_points            points  lower end of the interval over training seeds; NULL: no interval
--   high_points           points  upper end
--   change_points         points  effect less that with noise on all parameters and BN stale; NULL: not measured
--   change_low_points     points  lower end of the interval over training seeds; NULL: no interval
--   change_high_points    points  upper end

WITH
sided AS (
    SELECT *, everywhere(placement, bn_kept, bn_sites) AS whole
    FROM curve
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
      AND average_normalized IS NOT NULL
),
compared AS (
    SELECT *, count_if(NOT whole) OVER stratum AS others,
           min(coalesce(bn_kept, 0)) FILTER (WHERE NOT whole) OVER stratum AS fewest_kept
    FROM sided
    WINDOW stratum AS (PARTITION BY dataset, model, training)
    QUALIFY others > 0 AND (whole OR coalesce(bn_kept, 0) = fewest_kept)
),
per_seed AS (
    SELECT dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
           precision, sampling, train_seed, min(placement) FILTER (WHERE NOT whole) AS fewest, sum(n) AS n,
           avg(average_normalized) FILTER (WHERE whole) AS everywhere,
           avg(average_normalized) FILTER (WHERE NOT whole) AS other
    FROM compared
    GROUP BY ALL
    HAVING bool_or(whole) AND bool_or(NOT whole)
),
reference AS (
    SELECT dataset, model, training, noise_model, sigma_reference, precision, sampling, train_seed,
           everywhere - other AS effect
    FROM per_seed
    WHERE targets = 'all' AND bn_treatment = 'stale'
),
paired AS (
    SELECT per_seed.*, everywhere - other AS effect, everywhere - other - reference.effect AS change
    FROM per_seed LEFT JOIN reference
        USING (dataset, model, training, noise_model, sigma_reference, precision, sampling, train_seed)
),
over_seeds AS (
    SELECT dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
           precision, sampling, min(fewest) AS fewest, count(*) AS seeds, sum(n) AS n,
           avg(everywhere) AS everywhere, avg(other) AS other, avg(effect) AS effect, avg(change) AS change,
           stddev_samp(effect) AS sd_effect, count(change) AS changes, stddev_samp(change) AS sd_change
    FROM paired
    GROUP BY ALL
),
judged AS (
    SELECT *, half_width(seeds, sd_effect, 0, NULL, $confidence) AS half,
           CASE WHEN targets = 'all' AND bn_treatment = 'stale' THEN exact_width(changes, 0)
                ELSE half_width(changes, sd_change, 0, NULL, $confidence) END AS change_half
    FROM over_seeds
),
final AS (
    SELECT dataset, model, training, fewest, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
           precision, sampling, seeds::BIGINT AS seeds, n::BIGINT AS n,
           100 * everywhere AS everywhere_pct, 100 * other AS fewest_pct, 100 * effect AS effect_points,
           100 * (effect - half) AS low_points, 100 * (effect + half) AS high_points, 100 * change AS change_points,
           100 * (change - change_half) AS change_low_points, 100 * (change + change_half) AS change_high_points
    FROM judged
)
SELECT * FROM final
ORDER BY dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision,
         sampling
