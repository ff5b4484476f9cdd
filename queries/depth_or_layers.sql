-- Is it the depth of a network, or its number of BN layers?
--
-- Networks of one family that were trained by one recipe. Depth by itself: A_avr less that of the shallowest of them
-- with as many BN layers. Layers by themselves: A_avr less that of the same network with the fewest BN layers, seed by
-- seed. Placements with as many layers are averaged.
--
-- Intervals are over training seeds. Networks of different depth are trained independently, so the interval on the
-- difference by depth adds both variances (Welch's degrees of freedom are replaced by the smaller of the two: never
-- too narrow).
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset                 -       data set label
--   family                  -       networks that differ in depth alone
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
--   seeds                   runs    training seeds behind the figure
--   n                       trials  noise draws behind it, over all runs
--   baseline_pct            %       a0, accuracy of the clean networks
--   average_normalized_pct  %       A_avr
--   half_width_pct          points  half of its interval over training seeds; NULL: no interval
--   shallowest              -       shallowest network with as many BN layers; NULL: this one, or none has as many
--   depth_points            points  A_avr less that of the shallowest
--   depth_low_points        points  lower end of the interval; NULL: no interval
--   depth_high_points       points  upper end
--   fewest                  sites   BN sites of the same network with the fewest BN layers; NULL: this one
--   layers_points           points  A_avr less that with the fewest
--   layers_low_points       points  lower end of the interval; NULL: no interval
--   layers_high_points      points  upper end

WITH
per_seed AS (
    SELECT dataset, family(model) AS family, model, training, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling, train_seed,
           string_agg(DISTINCT placement, ', ' ORDER BY placement) AS placement, sum(n) AS n, avg(a0) AS a0,
           avg(average_normalized) AS value
    FROM curve
    WHERE dataset = coalesce($dataset, dataset) AND average_normalized IS NOT NULL AND bn_kept IS NOT NULL
    GROUP BY ALL
),
with_fewest AS (
    SELECT *, min(bn_kept) OVER (
        PARTITION BY dataset, model, training,
                     noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling
    ) AS fewest
    FROM per_seed
),
against_fewest AS (
    -- NULL where the seed was not trained with the fewest: it is not compared with anything else.
    SELECT *, value - max(value) FILTER (WHERE bn_kept = fewest) OVER (
        PARTITION BY dataset, model, training, train_seed,
                     noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling
    ) AS layers
    FROM with_fewest
),
over_seeds AS (
    SELECT * EXCLUDE (train_seed, placement, n, a0, value, layers),
           min(placement) AS placement, count(*) AS seeds, sum(n) AS n, avg(a0) AS a0,
           avg(value) AS mean, if_varies(stddev_samp(value) / sqrt(count(*))) AS se,
           avg(layers) AS layers, if_varies(stddev_samp(layers) / sqrt(count(layers))) AS layers_se,
           count(layers) AS layers_seeds
    FROM against_fewest
    GROUP BY ALL
),
against_shallowest AS (
    SELECT *, first(model) OVER as_many AS shallowest, mean - first(mean) OVER as_many AS depth,
           least(seeds, first(seeds) OVER as_many) - 1 AS depth_df, sqrt(se^2 + (first(se) OVER as_many)^2) AS depth_se
    FROM over_seeds
    WINDOW
        as_many AS (
            PARTITION BY dataset, family, training, bn_kept,
                         noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling
            ORDER BY bn_sites, model
        ),
        related AS (
            PARTITION BY dataset, family, training,
                         noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling
        )
    QUALIFY min(bn_sites) OVER related < max(bn_sites) OVER related
),
judged AS (
    SELECT *, t_quantile(seeds - 1, $confidence) * se AS half,
           CASE WHEN shallowest != model THEN depth END AS by_depth,
           t_quantile(depth_df, $confidence) * depth_se AS depth_half,
           CASE WHEN bn_kept > fewest THEN layers END AS by_layers,
           t_quantile(layers_seeds - 1, $confidence) * layers_se AS layers_half
    FROM against_shallowest
),
final AS (
    SELECT dataset, family, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           seeds::BIGINT AS seeds, n::BIGINT AS n, 100 * a0 AS baseline_pct, 100 * mean AS average_normalized_pct,
           100 * half AS half_width_pct, nullif(shallowest, model) AS shallowest, 100 * by_depth AS depth_points,
           100 * (by_depth - depth_half) AS depth_low_points, 100 * (by_depth + depth_half) AS depth_high_points,
           nullif(fewest, bn_kept) AS fewest, 100 * by_layers AS layers_points,
           100 * (by_layers - layers_half) AS layers_low_points, 100 * (by_layers + layers_half) AS layers_high_points
    FROM judged
)
SELECT * FROM final
ORDER BY dataset, family, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, bn_sites, model, bn_kept
