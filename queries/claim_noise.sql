-- Does accuracy fall as eta rises?
--
-- One sequence over eta per network, placement and training seed.
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
final AS (
    SELECT '' AS part, dataset, model || ' ' || training AS model, placement, train_seed, eta::DOUBLE AS x,
           'eta ' || round(eta::DOUBLE, 6) AS x_label, 100 * avg(accuracy) AS value_pct, sum(n)::BIGINT AS n
    FROM main_point
    GROUP BY ALL
)
SELECT * FROM final
ORDER BY ALL
