-- Does part of the BN layers lie between all and none?
--
-- A_avr of each placement in between, once against none and once against all.
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
    SELECT dataset, model || ' ' || training AS model, train_seed, placement, bn_mask, average_normalized AS value, n,
           CASE WHEN bn_kept = 0 THEN 'none' WHEN bn_kept = bn_sites THEN 'all' WHEN bn_kept > 0 THEN 'some' END AS kind
    FROM main_curve
),
parts AS (
    SELECT 'below no BN' AS part, partial.dataset, partial.model, partial.placement, partial.train_seed,
           unnest([0, 1]) AS x, unnest(['no BN', partial.placement]) AS x_label,
           unnest([ends.value, partial.value]) AS value, unnest([ends.n, partial.n]) AS n
    FROM measured AS partial JOIN measured AS ends USING (dataset, model, train_seed)
    WHERE partial.kind = 'some' AND ends.kind = 'none'
    UNION ALL
    SELECT 'above BN everywhere', partial.dataset, partial.model, partial.placement, partial.train_seed,
           unnest([0, 1]), unnest([partial.placement, 'BN everywhere']),
           unnest([partial.value, ends.value]), unnest([partial.n, ends.n])
    FROM measured AS partial JOIN measured AS ends USING (dataset, model, train_seed)
    WHERE partial.kind = 'some' AND ends.kind = 'all'
),
final AS (
    SELECT part, dataset, model, placement, train_seed, x::DOUBLE AS x, x_label, 100 * value AS value_pct,
           n::BIGINT AS n
    FROM parts
    WHERE value IS NOT NULL
)
SELECT * FROM final
ORDER BY ALL
