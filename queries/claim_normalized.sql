-- Does BN lower normalized accuracy at each eta?
--
-- The paper's comparison: BN everywhere against none, or against the placement with the fewest BN layers where the
-- network was not trained without. One part per eta.
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
    SELECT 'eta ' || round(eta::DOUBLE, 6) AS part, dataset, model, training, train_seed, bn_kept, bn_sites, placement,
           accuracy / nullif(a0, 0) AS value, n
    FROM main_point
    WHERE eta > 0
),
final AS (FROM all_against_fewest('measured'))
SELECT * FROM final
ORDER BY ALL
