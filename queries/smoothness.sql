-- How much do gradients vary while a network is trained?
--
-- The paper, after Santurkar et al. (NeurIPS 2018): with BN the norm of the gradient has a narrow range and consecutive
-- gradients differ little in l2. Over the steps of each epoch that was measured. Needs `probes` in the sweep file.
--
-- Parameters
--   dataset  VARCHAR  NULL  only this data set; NULL: all
--   model    VARCHAR  NULL  only this network; NULL: all
--
-- Columns
--   dataset       -       data set label
--   model         -       network
--   training      -       digest of recipe and data; see query runs
--   placement     -       where BN stays
--   bn_kept       sites   BN sites that keep BN
--   bn_sites      sites   BN sites of the network
--   epoch         epochs  the epoch whose steps these are
--   seeds         runs    training runs behind the figures, which are means over them
--   norm_min      -       smallest l2 norm of a step's gradient
--   norm_mean     -       mean norm
--   norm_max      -       largest norm
--   norm_range    times   norm_max / norm_min
--   change_mean   -       mean l2 distance between the gradients of consecutive steps
--   change_max    -       largest distance
--   change_share  -       change_mean / norm_mean; sqrt(2): consecutive gradients have nothing in common
--   cost_pct      %       time of all measurements of the runs, as a share of their training time

WITH
one_run AS ( -- a training that diverged has NaN
    SELECT run_id, epoch,
           any_value(value) FILTER (probe = 'gradient_norm_min') AS norm_min,
           any_value(value) FILTER (probe = 'gradient_norm_mean') AS norm_mean,
           any_value(value) FILTER (probe = 'gradient_norm_max') AS norm_max,
           any_value(value) FILTER (probe = 'gradient_change_mean') AS change_mean,
           any_value(value) FILTER (probe = 'gradient_change_max') AS change_max
    FROM probes
    WHERE (probe LIKE 'gradient_norm%' OR probe LIKE 'gradient_change%') AND isfinite(value)
    GROUP BY run_id, epoch
),
measuring AS ( -- the five terms of eq. 9 at a site come from one measurement, whose time is in each of their rows
    SELECT run_id, sum(duration_s) FILTER (probe NOT LIKE 'eq9%' OR probe = 'eq9_scale') AS probe_s
    FROM probes
    GROUP BY run_id
),
trained AS (SELECT run_id, sum(duration_s) AS train_s FROM epochs GROUP BY run_id),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, epoch, count(*) AS seeds,
           avg(norm_min) AS norm_min, avg(norm_mean) AS norm_mean, avg(norm_max) AS norm_max,
           avg(norm_max / nullif(norm_min, 0)) AS norm_range,
           avg(change_mean) AS change_mean, avg(change_max) AS change_max,
           avg(change_mean / nullif(norm_mean, 0)) AS change_share,
           100 * sum(probe_s) / nullif(sum(train_s), 0) AS cost_pct
    FROM one_run JOIN run USING (run_id) JOIN measuring USING (run_id) JOIN trained USING (run_id)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
    GROUP BY ALL
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, bn_kept DESC, placement, epoch
