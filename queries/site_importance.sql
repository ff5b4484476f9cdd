-- Which BN sites matter?
--
-- The main effect of a site: the mean over placements that keep BN there less the mean over those that do not. A search
-- does not try all placements alike, so sites that are kept together share their effects here; a search's report and
-- `bnsweep search show` tell them apart by regression.
--
-- Interval: Student's t between the means of placements (Welch's degrees of freedom).
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset                -           data set label
--   model                  -           network
--   training               -           digest of recipe and data; see query runs
--   noise_model            -           noise model
--   sigma_reference        -           what eta multiplies
--   targets                -           which parameters are hit
--   bn_treatment           -           what happens to BN around the noise
--   recalibration_images   images      training images that re-estimate BN; 0 unless recalibrated
--   precision              -           of the forward pass
--   sampling               -           test images per trial: full, random or strata
--   site                   -           number of the site, in forward order
--   path                   -           its module path; NULL: the store has none, no search was made
--   with_bn                placements  that keep BN here
--   without_bn             placements  that do not
--   baseline_effect_pct    points      change of a0
--   baseline_low_pct       points      lower end of its interval; NULL: too few placements
--   baseline_high_pct      points      upper end
--   normalized_effect_pct  points      change of A_avr
--   normalized_low_pct     points      lower end of its interval; NULL: too few placements
--   normalized_high_pct    points      upper end

WITH
averaged AS (
    FROM comparable($confidence)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
),
placed AS (
    SELECT dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
           precision, sampling, bn_sites, unnest(range(1, bn_sites + 1)) AS site, bn_mask, a0, mean
    FROM averaged
),
grouped AS (
    SELECT dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
           precision, sampling, bn_sites, site, substr(bn_mask, site, 1) = '1' AS kept,
           count(*) AS placements, avg(a0) AS a0, avg(mean) AS mean,
           var_samp(a0) / count(*) AS v_a0, var_samp(mean) / count(*) AS v_mean
    FROM placed
    GROUP BY ALL
),
paired AS (
    -- Without spread there is no interval; means that are equal leave a rounding error, in variances below 1e-18.
    SELECT kept.* EXCLUDE (kept, placements, a0, mean, v_a0, v_mean),
           kept.placements AS with_bn, dropped.placements AS without_bn,
           kept.a0 - dropped.a0 AS d_a0, kept.mean - dropped.mean AS d_mean,
           sqrt(kept.v_a0 + dropped.v_a0) AS se_a0, sqrt(kept.v_mean + dropped.v_mean) AS se_mean,
           CASE WHEN kept.v_a0 + dropped.v_a0 > 1e-18 THEN
               floor((kept.v_a0 + dropped.v_a0) ** 2
                   / (kept.v_a0 ** 2 / (kept.placements - 1) + dropped.v_a0 ** 2 / (dropped.placements - 1)))
           END AS df_a0,
           CASE WHEN kept.v_mean + dropped.v_mean > 1e-18 THEN
               floor((kept.v_mean + dropped.v_mean) ** 2
                   / (kept.v_mean ** 2 / (kept.placements - 1) + dropped.v_mean ** 2 / (dropped.placements - 1)))
           END AS df_mean
    FROM (FROM grouped WHERE kept) AS kept
    JOIN (FROM grouped WHERE NOT kept) AS dropped
        USING (dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
               precision, sampling, bn_sites, site)
),
-- A search notes its sites under its own name of the data set, which need not be the label.
label_of AS (SELECT DISTINCT plan.dataset AS own, label.dataset FROM plan JOIN label USING (run_id)),
named AS (
    SELECT label_of.dataset, model, bn_sites, site, any_value(path) AS path
    FROM sites JOIN label_of ON label_of.own = sites.dataset
    GROUP BY ALL
),
final AS (
    SELECT dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
           precision, sampling, site, path, with_bn, without_bn,
           100 * d_a0 AS baseline_effect_pct,
           100 * (d_a0 - t_quantile(df_a0, $confidence) * se_a0) AS baseline_low_pct,
           100 * (d_a0 + t_quantile(df_a0, $confidence) * se_a0) AS baseline_high_pct,
           100 * d_mean AS normalized_effect_pct,
           100 * (d_mean - t_quantile(df_mean, $confidence) * se_mean) AS normalized_low_pct,
           100 * (d_mean + t_quantile(df_mean, $confidence) * se_mean) AS normalized_high_pct
    FROM paired LEFT JOIN named USING (dataset, model, bn_sites, site)
)
SELECT * FROM final
ORDER BY dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision,
         sampling, site
