-- Is the effect there for each treatment of BN?
--
-- The paper's comparison: BN everywhere against none, or against the placement with the fewest BN layers where the
-- network was not trained without. One part per treatment, for noise on the weights.
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
scored AS (
    SELECT *, count(DISTINCT recalibration_images) OVER (PARTITION BY bn_treatment) > 1 AS several
    FROM curve SEMI JOIN main_cell USING (noise_model, sigma_reference, targets, precision, sampling)
),
measured AS (
    SELECT 'BN ' || bn_treatment || CASE WHEN several THEN ' on ' || recalibration_images || ' images' ELSE '' END
               AS part, dataset, model, training, train_seed, bn_kept, bn_sites, placement,
           average_normalized AS value, n
    FROM scored
),
final AS (FROM all_against_fewest('measured'))
SELECT * FROM final
ORDER BY ALL
