-- What does BN do to the gradient at each site, by the terms of eq. 9?
--
-- ||dL/dy||^2 = gamma^2 / s^2 * (||G||^2 - <1, G>^2 / m - <G, y_hat>^2 / m) per channel, where y goes into BN, G is the
-- gradient of what comes out and m counts the values of a channel in the batch. The paper's argument is that the
-- factor and the two squared terms make the gradient small. Means over training runs. Needs `probes` in the sweep file.
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of the interval
--
-- Columns
--   dataset          -       data set label
--   model            -       network
--   training         -       digest of recipe and data; see query runs
--   placement        -       where BN stays
--   epoch            epochs  epochs completed
--   site             -       BN site
--   seeds            runs    training runs behind the figures
--   scale            -       gamma^2 / s^2, mean over channels
--   gradient         -       ||G||^2, summed over channels
--   mean_pct         %       share of it that the term <1, G>^2 / m takes away
--   correlation_pct  %       share of it that the term <G, y_hat>^2 / m takes away
--   gradient_in      -       ||dL/dy||^2, summed over channels
--   passed           times   gradient_in / gradient: below 1, BN makes the gradient smaller
--   half_width       times   half of the interval on passed over training seeds; NULL: no interval

WITH
one_run AS ( -- a training that diverged has NaN
    SELECT run_id, epoch, site,
           any_value(value) FILTER (probe = 'eq9_scale') AS scale,
           any_value(value) FILTER (probe = 'eq9_gradient') AS gradient,
           any_value(value) FILTER (probe = 'eq9_mean_term') AS mean_term,
           any_value(value) FILTER (probe = 'eq9_correlation_term') AS correlation_term,
           any_value(value) FILTER (probe = 'eq9_gradient_in') AS gradient_in
    FROM probes
    WHERE probe LIKE 'eq9%' AND isfinite(value)
    GROUP BY run_id, epoch, site
),
over_seeds AS (
    SELECT dataset, model, training, placement, epoch, site, count(*) AS seeds, avg(scale) AS scale,
           avg(gradient) AS gradient, 100 * avg(mean_term) AS mean_pct, 100 * avg(correlation_term) AS correlation_pct,
           avg(gradient_in) AS gradient_in, avg(gradient_in / nullif(gradient, 0)) AS passed,
           stddev_samp(gradient_in / nullif(gradient, 0)) AS sd_passed
    FROM one_run JOIN run USING (run_id)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
    GROUP BY ALL
),
final AS (
    SELECT * EXCLUDE (sd_passed), half_width(seeds, sd_passed, 0, NULL, $confidence) AS half_width
    FROM over_seeds
)
SELECT * FROM final
ORDER BY dataset, model, training, placement, epoch, site
