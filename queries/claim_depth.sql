-- Does BN cost more in networks with more BN layers?
--
-- Between networks of one family, with BN everywhere. A deeper network may be weaker without BN too, so the second
-- part looks at the difference from the same network without BN (or with the fewest BN layers it was trained with).
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
    SELECT dataset, training, model, train_seed, bn_sites, bn_kept, placement, average_normalized AS value, n,
           everywhere(placement, bn_kept, bn_sites) AS everywhere, family(model) AS family
    FROM main_curve
),
fewest AS (
    SELECT dataset, training, model, train_seed, avg(value) AS value
    FROM (
        FROM measured
        WHERE NOT everywhere
        QUALIFY coalesce(bn_kept, 0) = min(coalesce(bn_kept, 0)) OVER (PARTITION BY dataset, training, model)
    )
    GROUP BY ALL
),
parts AS (
    SELECT 'A_avr with BN everywhere' AS part, dataset, training, family, train_seed, bn_sites, model, value, n
    FROM measured
    WHERE everywhere
    UNION ALL
    SELECT 'difference from the fewest BN layers', dataset, training, family, train_seed, bn_sites, model,
           measured.value - fewest.value, n
    FROM measured JOIN fewest USING (dataset, training, model, train_seed)
    WHERE everywhere
),
named AS (SELECT *, count(DISTINCT training) OVER (PARTITION BY dataset, family) AS trainings FROM parts),
final AS (
    -- Networks of different recipes are not compared: each recipe is a family of its own.
    SELECT part, dataset, family || CASE WHEN trainings > 1 THEN ' ' || training ELSE '' END AS model,
           'all' AS placement, train_seed, bn_sites::DOUBLE AS x, named.model AS x_label, 100 * avg(value) AS value_pct,
           sum(n)::BIGINT AS n
    FROM named
    WHERE value IS NOT NULL
    GROUP BY part, dataset, family, training, trainings, train_seed, bn_sites, named.model
)
SELECT * FROM final
ORDER BY ALL
