-- Does gradient noise predict how much accuracy a network keeps?
--
-- Spearman's rank correlation between C (eq. 6) and A_avr over the training runs of one recipe, noise cell and way of
-- scoring (by eq. 7 a step of SGD has C times the squared learning rate over the batch size, so that C says nothing
-- across recipes), with the interval of Bonett and Wright (Psychometrika 65:23, 2000):
-- tanh(atanh(r) -+ z * sqrt((1 + r^2 / 2) / (n - 3))). n is the number of arms (network and placement), not of runs:
-- seeds of one arm resemble each other, and many of them are no more comparisons. Fewer than four arms have none. At
-- r = 1 it has no width, whatever n: beyond the next lower value that n ranks can have, 1 - 12 / (n^3 - n), it is taken
-- about that value, and reaches to r; below 0 likewise. Six arms are the fewest that can decide.
-- The paper's explanation (BN lowers C, and less noise in training means less resistance later) says that r is above 0.
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   confidence  DOUBLE   0.95  of the interval
--
-- Columns
--   dataset               -       data set label
--   training              -       digest of recipe and data; see query runs
--   noise_model           -       noise model
--   sigma_reference       -       what eta multiplies
--   targets               -       which parameters are hit
--   bn_treatment          -       what happens to BN around the noise
--   recalibration_images  images  training images that re-estimate BN; 0 unless recalibrated
--   precision             -       of the forward pass
--   sampling              -       test images per trial: full, random or strata
--   measure               -       images: C from single images; batches: from batches, BN in training mode
--   networks              runs    training runs behind the figure
--   arms                  -       networks and placements among them, what the interval counts
--   rank_correlation      -       Spearman's, equals share their mean rank; NULL: fewer than four runs, or all alike
--   low                   -       lower end of its interval; NULL: fewer than four arms
--   high                  -       upper end
--   explanation           -       supported (low > 0), contradicted (high < 0) or undecided

WITH
last_measured AS (
    SELECT run_id, probe, value
    FROM probes
    WHERE probe IN ('gradient_noise', 'gradient_noise_batch')
    QUALIFY row_number() OVER (PARTITION BY run_id, probe ORDER BY epoch DESC) = 1
),
paired AS (
    SELECT dataset, training, model, placement, noise_model, sigma_reference, targets, bn_treatment,
           recalibration_images, precision, sampling,
           CASE probe WHEN 'gradient_noise' THEN 'images' ELSE 'batches' END AS measure, value, average_normalized
    FROM curve JOIN last_measured USING (run_id)
    WHERE dataset = coalesce($dataset, dataset) AND average_normalized IS NOT NULL AND isfinite(value)
),
ranked AS (
    -- Ranks from below less ranks from above: twice the mean rank of equals, less a constant.
    SELECT dataset, training, model, placement, noise_model, sigma_reference, targets, bn_treatment,
           recalibration_images, precision, sampling, measure,
           rank() OVER (cell ORDER BY value) - rank() OVER (cell ORDER BY value DESC) AS rank_of_noise,
           rank() OVER (cell ORDER BY average_normalized)
               - rank() OVER (cell ORDER BY average_normalized DESC) AS rank_of_average
    FROM paired
    WINDOW cell AS (PARTITION BY dataset, training, noise_model, sigma_reference, targets, bn_treatment,
                    recalibration_images, precision, sampling, measure)
),
correlated AS (
    SELECT dataset, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
           precision, sampling, measure, count(*) AS networks, count(DISTINCT (model, placement)) AS arms,
           CASE WHEN count(*) >= 4 AND var_pop(rank_of_noise) > 0 AND var_pop(rank_of_average) > 0
                THEN corr(rank_of_noise, rank_of_average) END AS r
    FROM ranked
    GROUP BY ALL
),
bounded AS (
    SELECT correlated.*,
           CASE WHEN arms > 3 THEN t_quantile(1001, $confidence) * sqrt((1 + r^2 / 2) / (arms - 3)) END AS half,
           CASE WHEN arms > 3 THEN 1 - 12 / (arms^3 - arms) END AS most
    FROM correlated
),
final AS (
    SELECT dataset, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
           precision, sampling, measure, networks::BIGINT AS networks, arms::BIGINT AS arms,
           r AS rank_correlation,
           CASE WHEN half IS NOT NULL THEN least(r, tanh(atanh(greatest(least(r, most), -most)) - half)) END AS low,
           CASE WHEN half IS NOT NULL THEN greatest(r, tanh(atanh(greatest(least(r, most), -most)) + half)) END AS high,
           CASE WHEN low > 0 THEN 'supported'
                WHEN high < 0 THEN 'contradicted'
                ELSE 'undecided' END AS explanation
    FROM bounded
)
SELECT * FROM final
ORDER BY dataset, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, measure
