-- Which placements does no other one beat in accuracy, noise resistance and number of BN layers?
--
-- A placement is on the front if no other one of the same network is at least as good in everything and better in
-- something, by means over training seeds. Placements that have not all been trained with the same seeds are compared
-- as if they had: what a seed does to all of them is taken out (`comparable` in 00_views.sql). The luck of single runs
-- is not: intervals that overlap say that the order may change, and a search's --emit writes the sweep that finds out.
-- Runs that diverged have no accuracy: a placement is judged here by its others (`bnsweep search show` puts it on no
-- front).
--
-- Interval: see `averages` in 00_views.sql.
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   by_kept     DOUBLE   1     1: fewer BN layers are better, too; 0: their number does not count
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset                 -       data set label
--   model                   -       network
--   training                -       digest of recipe and data; see query runs
--   bn_mask                 -       1 per BN site that keeps BN, in forward order
--   placement               -       where BN stays
--   bn_kept                 sites   BN sites that keep BN
--   bn_sites                sites   BN sites of the network
--   noise_model             -       noise model
--   sigma_reference         -       what eta multiplies
--   targets                 -       which parameters are hit
--   bn_treatment            -       what happens to BN around the noise
--   recalibration_images    images  training images that re-estimate BN; 0 unless recalibrated
--   precision               -       of the forward pass
--   sampling                -       test images per trial: full, random or strata
--   seeds                   runs    training runs behind the figure
--   n                       trials  noise draws behind it, over all runs
--   baseline_pct            %       a0, accuracy of the clean networks, at the mean of the network's seeds
--   baseline_low_pct        %       lower end of the interval over training seeds; NULL: no interval
--   baseline_high_pct       %       upper end
--   average_normalized_pct  %       A_avr, likewise
--   low_pct                 %       lower end of the interval on average_normalized_pct; NULL: no interval
--   high_pct                %       upper end
--   level                   -       seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   front                   -       no other placement beats it
--   paper                   -       what the paper compares: BN everywhere, no BN, the first layer only; NULL: neither

WITH
averaged AS (
    FROM comparable($confidence)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
),
compared AS (
    SELECT averaged.*, half_width(seeds, sd_a0, 0, NULL, $confidence) AS half_a0,
           NOT EXISTS (
               FROM averaged AS other
               WHERE other.dataset = averaged.dataset AND other.model = averaged.model
                 AND other.training = averaged.training
                 AND other.noise_model = averaged.noise_model AND other.sigma_reference = averaged.sigma_reference
                 AND other.targets = averaged.targets AND other.bn_treatment = averaged.bn_treatment
                 AND other.recalibration_images = averaged.recalibration_images
                 AND other.precision = averaged.precision AND other.sampling = averaged.sampling
                 AND other.a0 >= averaged.a0 AND other.mean >= averaged.mean
                 AND ($by_kept = 0 OR other.bn_kept <= averaged.bn_kept)
                 AND (other.a0 > averaged.a0 OR other.mean > averaged.mean
                      OR ($by_kept <> 0 AND other.bn_kept < averaged.bn_kept))
           ) AS front
    FROM averaged
),
final AS (
    SELECT dataset, model, training, bn_mask, placement, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           seeds::BIGINT AS seeds, n::BIGINT AS n, 100 * a0 AS baseline_pct,
           low_pct(a0, half_a0) AS baseline_low_pct, high_pct(a0, half_a0) AS baseline_high_pct,
           100 * mean AS average_normalized_pct, low_pct(mean, half) AS low_pct, 100 * (mean + half) AS high_pct, level,
           front,
           CASE WHEN bn_kept = bn_sites THEN 'BN everywhere' WHEN bn_kept = 0 THEN 'no BN'
                WHEN bn_kept = 1 AND starts_with(bn_mask, '1') THEN 'first layer only' END AS paper
    FROM compared
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, front DESC, bn_kept, baseline_pct DESC, bn_mask
