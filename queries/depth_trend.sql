-- Do networks with more BN layers keep less of their accuracy?
--
-- A_avr of networks of one family and recipe in the order of their BN sites, by placement, with the change from the
-- next shallower one. Networks are trained independently, so the change's interval adds both variances (Welch's
-- degrees of freedom are replaced by the smaller of the two: never too narrow). Where one side has a single training
-- seed nothing is known of the spread between networks, and the change has no interval.
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
--   etas                    levels  eta above 0 that are averaged
--   seeds                   runs    training runs behind the figure
--   n                       trials  noise draws behind it, over all runs
--   baseline_pct            %       a0, accuracy of the clean networks
--   average_normalized_pct  %       A_avr
--   low_pct                 %       lower end of the interval on average_normalized_pct; NULL: no interval
--   high_pct                %       upper end
--   half_width_pct          points  half of the interval's width before it is cut at 0 %
--   level                   -       seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   previous_model          -       next shallower network of the family with this placement; NULL: none
--   change_pct              points  A_avr less that of the previous one
--   change_low_pct          points  lower end of the interval on the change; NULL: not both have level `seeds`
--   change_high_pct         points  upper end

WITH
averaged AS (
    FROM averages($confidence)
    WHERE dataset = coalesce($dataset, dataset)
),
in_family AS (
    SELECT *, family(model) AS family
    FROM averaged
),
stepped AS (
    SELECT *,
           lag(model) OVER deeper AS previous_model, mean - lag(mean) OVER deeper AS change,
           CASE WHEN level = 'seeds' AND lag(level) OVER deeper = 'seeds' THEN least(df, lag(df) OVER deeper)
           END AS change_df,
           sqrt(se^2 + (lag(se) OVER deeper)^2) AS change_se
    FROM in_family
    WINDOW deeper AS (
        PARTITION BY dataset, family, training, placement, noise_model, sigma_reference, targets, bn_treatment,
                     recalibration_images, precision, sampling
        ORDER BY bn_sites, model
    )
),
judged AS (SELECT *, t_quantile(change_df, $confidence) * change_se AS change_half FROM stepped),
final AS (
    SELECT dataset, family, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           etas::BIGINT AS etas, seeds::BIGINT AS seeds, n::BIGINT AS n, 100 * a0 AS baseline_pct,
           100 * mean AS average_normalized_pct, low_pct(mean, half) AS low_pct, 100 * (mean + half) AS high_pct,
           100 * half AS half_width_pct, level,
           previous_model, 100 * change AS change_pct,
           100 * (change - change_half) AS change_low_pct, 100 * (change + change_half) AS change_high_pct
    FROM judged
    WHERE model = coalesce($model, model)
)
SELECT * FROM final
ORDER BY dataset, family, training, placement, noise_model, sigma_reference, targets, bn_treatment,
         recalibration_images, precision, sampling, bn_sites, model
