-- Do more BN layers within one network lower A_avr more?
--
-- Networks that were trained with at least three different numbers of BN layers.
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
    SELECT dataset, model || ' ' || training AS model, train_seed, bn_kept, avg(average_normalized) AS value,
           sum(n) AS n
    FROM main_curve
    WHERE bn_kept IS NOT NULL
    GROUP BY ALL
),
enough AS (SELECT dataset, model FROM measured GROUP BY ALL HAVING count(DISTINCT bn_kept) >= 3),
final AS (
    SELECT '' AS part, dataset, model, 'by layers kept' AS placement, train_seed, bn_kept::DOUBLE AS x,
           bn_kept || ' BN layers' AS x_label, 100 * value AS value_pct, n::BIGINT AS n
    FROM measured SEMI JOIN enough USING (dataset, model)
    WHERE value IS NOT NULL
)
SELECT * FROM final
ORDER BY ALL
