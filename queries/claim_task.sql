-- Does a harder task lower A_avr?
--
-- The same network and placement on several data sets; more classes stand for a harder task.
--
-- Parameters
--   none
--
-- Columns
--   part        -       which part of the claim the row bears on
--   dataset     -       data set label
--   model       -       network, or family of networks
--   placement   -       placements that are compared
--   train_seed  -       training seed
--   x           -       what is varied, as a number
--   x_label     -       what is varied
--   value_pct   %       what is measured
--   n           trials  noise draws behind it

WITH
measured AS (
    SELECT main_curve.dataset, main_curve.model, main_curve.placement, main_curve.train_seed, run.classes,
           avg(average_normalized) AS value, sum(n) AS n
    FROM main_curve JOIN (SELECT run_id, classes FROM run) AS run USING (run_id)
    GROUP BY ALL
),
several AS (SELECT model, placement FROM measured GROUP BY ALL HAVING count(DISTINCT classes) >= 2),
final AS (
    SELECT '' AS part, '' AS dataset, model, placement, train_seed, classes::DOUBLE AS x,
           string_agg(DISTINCT dataset, ', ' ORDER BY dataset) AS x_label, 100 * avg(value) AS value_pct,
           sum(n)::BIGINT AS n
    FROM measured SEMI JOIN several USING (model, placement)
    WHERE value IS NOT NULL
    GROUP BY model, placement, train_seed, classes
)
SELECT * FROM final
ORDER BY ALL
