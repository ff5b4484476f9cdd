-- Does a harder task lower A_avr?
--
-- The same network and placement, trained by the same recipe on as many images of several data sets; more classes stand
-- for a harder task. Networks on several data sets that share no recipe have rows too, of one x each, since nothing is
-- compared across recipes. Where there are several, their digest follows the network's name.
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
    SELECT main_curve.dataset, main_curve.model, main_curve.placement, main_curve.train_seed, run.classes, run.recipe,
           average_normalized AS value, n
    FROM main_curve
    JOIN (SELECT run_id, classes, shared_recipe(recipe, train_images) AS recipe FROM run) AS run
        USING (run_id)
    WHERE average_normalized IS NOT NULL
),
several AS (SELECT model, placement FROM measured GROUP BY ALL HAVING count(DISTINCT classes) >= 2),
shared AS (SELECT model, placement, recipe FROM measured GROUP BY ALL HAVING count(DISTINCT classes) >= 2),
compared AS (
    SELECT *, count(DISTINCT recipe) OVER (PARTITION BY model) AS recipes
    FROM (
        FROM measured SEMI JOIN shared USING (model, placement, recipe)
        UNION ALL
        FROM measured SEMI JOIN several USING (model, placement) ANTI JOIN shared USING (model, placement)
    )
),
final AS (
    SELECT '' AS part, '' AS dataset, model || CASE WHEN recipes > 1 THEN ' ' || recipe ELSE '' END AS model,
           placement, train_seed, classes::DOUBLE AS x,
           string_agg(DISTINCT dataset, ', ' ORDER BY dataset) AS x_label, 100 * avg(value) AS value_pct,
           sum(n)::BIGINT AS n
    FROM compared
    GROUP BY compared.model, recipe, recipes, placement, train_seed, classes
)
SELECT * FROM final
ORDER BY ALL
