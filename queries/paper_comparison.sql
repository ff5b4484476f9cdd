-- How do our figures compare with the paper's Tables II, III and IV?
--
-- The paper's `with` stands beside BN everywhere, its `without` beside every other placement (no BN, or part of it:
-- where training without BN did not converge, the paper kept some layers and does not say which). Its tables carry no
-- spread and are of one network for all we know: it agrees with ours if it lies where one more network of ours would
-- (sqrt(seeds + 1) times as far from the mean as the interval reaches). ResNet_36 is set beside resnet32 and resnet36.
-- Rows without eta are A_avr (Table IV), of networks that were measured at the paper's five eta, 1 to 40 %.
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset               -         data set label
--   model                 -         network
--   training              -         digest of recipe and data; see query runs
--   placement             -         where BN stays
--   bn_kept               sites     BN sites that keep BN
--   bn_sites              sites     BN sites of the network
--   noise_model           -         noise model
--   sigma_reference       -         what eta multiplies
--   targets               -         which parameters are hit
--   bn_treatment          -         what happens to BN around the noise
--   recalibration_images  images    training images that re-estimate BN; 0 unless recalibrated
--   precision             -         of the forward pass
--   sampling              -         test images per trial: full, random or strata
--   paper_model           -         the paper's name of the network
--   bn                    -         the paper's column: with or without
--   quantity              -         accuracy (Tables II, III) or average_normalized (Table IV)
--   eta                   fraction  noise level; NULL for average_normalized
--   seeds                 runs      training runs behind the figure
--   n                     trials    noise draws behind it, over all runs
--   ours_pct              %         our mean
--   low_pct               %         lower end of the interval on ours_pct; NULL: no interval
--   high_pct              %         upper end
--   half_width_pct        points    half of the interval's width before it is cut at 0 %
--   level                 -         seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   paper_pct             %         the paper's figure
--   difference_pct        points    ours less the paper's
--   agrees                -         the paper's figure is where one more network of ours may be; NULL: no interval

WITH
averaged AS (
    FROM averages($confidence)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
),
averages AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           'average_normalized' AS quantity, NULL::DECIMAL(9, 6) AS eta, seeds, n, mean, half,
           level
    FROM averaged
    WHERE levels = (SELECT list(DISTINCT eta::DECIMAL(9, 6) ORDER BY eta) FROM paper WHERE eta > 0)
),
levels AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, bn_mask,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling, eta,
           count(*) AS seeds, sum(n) AS n, avg(accuracy) AS mean, stddev_samp(accuracy) AS sd_seeds,
           sqrt(avg(variance)) AS sd_draws
    FROM point
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
    GROUP BY ALL
),
judged_levels AS (SELECT *, half_width(seeds, sd_seeds, n, sd_draws, $confidence) AS half FROM levels),
ours AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           'accuracy' AS quantity, eta, seeds, n, mean, half,
           CASE WHEN half IS NOT NULL THEN interval_level(seeds, n) END AS level
    FROM judged_levels
    UNION ALL
    FROM averages
),
final AS (
    SELECT ours.dataset, ours.model, training, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           paper_model, bn, quantity, ours.eta::DOUBLE AS eta, seeds::BIGINT AS seeds, n::BIGINT AS n,
           100 * mean AS ours_pct, low_pct(mean, half) AS low_pct,
           CASE WHEN quantity = 'accuracy' THEN high_pct(mean, half) ELSE 100 * (mean + half) END AS high_pct,
           100 * half AS half_width_pct, level, 100 * value AS paper_pct, 100 * (mean - value) AS difference_pct,
           abs(mean - value) <= half * CASE WHEN level = 'seeds' THEN sqrt(seeds + 1) ELSE 1 END AS agrees
    FROM ours JOIN paper
        ON paper.dataset = ours.dataset AND ours.model IN (paper.model, paper.paper_model)
       AND paper.bn = CASE WHEN placement = 'all' OR bn_kept = bn_sites THEN 'with' ELSE 'without' END
       AND paper.eta IS NOT DISTINCT FROM ours.eta
    GROUP BY ALL
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, bn_kept DESC, placement, quantity, eta
