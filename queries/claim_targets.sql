-- Is the effect there for each set of parameters that the noise may hit?
--
-- The paper's comparison: BN everywhere against none, or against the placement with the fewest BN layers where the
-- network was not trained without. One part per target set, with BN left as it is (stale).
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
    SELECT 'noise on ' || targets AS part, dataset, model, training, train_seed, bn_kept, bn_sites, placement,
           average_normalized AS value, n, placement = 'all' OR coalesce(bn_kept = bn_sites, false) AS everywhere
    FROM curve SEMI JOIN main_cell USING (noise_model, sigma_reference, precision, sampling)
    WHERE bn_treatment = 'stale'
),
fewest AS (
    SELECT part, dataset, model, training, min(coalesce(bn_kept, 0)) AS bn_kept
    FROM measured
    WHERE NOT everywhere
    GROUP BY ALL
),
compared AS (
    SELECT measured.* FROM measured SEMI JOIN fewest USING (part, dataset, model, training) WHERE everywhere
    UNION ALL
    SELECT measured.* FROM measured SEMI JOIN fewest
        ON measured.part = fewest.part AND measured.dataset = fewest.dataset AND measured.model = fewest.model
       AND measured.training = fewest.training AND coalesce(measured.bn_kept, 0) = fewest.bn_kept
    WHERE NOT everywhere
),
final AS (
    SELECT part, dataset, model || CASE WHEN training_count > 1 THEN ' ' || training ELSE '' END AS model,
           'all against the fewest' AS placement, train_seed, everywhere::INTEGER::DOUBLE AS x,
           CASE WHEN everywhere THEN 'BN everywhere' WHEN bn_kept = 0 THEN 'no BN' ELSE placement END AS x_label,
           100 * avg(value) AS value_pct, sum(n)::BIGINT AS n
    FROM (SELECT *, count(DISTINCT training) OVER (PARTITION BY dataset, model) AS training_count FROM compared)
    WHERE value IS NOT NULL
    GROUP BY ALL
)
SELECT * FROM final
ORDER BY ALL
