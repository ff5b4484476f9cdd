-- How often does noise turn a network's outputs into NaN, so that it can only guess?
--
-- Noise on BN's running variance can make it negative; its square root is then NaN, every output after it too, and the
-- largest of NaN is the first class: chance to the last digit. A draw is `lost` if all its outputs are NaN or infinite.
-- Only cells in which some draw was lost or had such outputs are listed. Accuracies are means of the runs' means, as
-- everywhere: runs with many draws do not count for more.
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
--   eta                   fraction  noise level, of the sigma reference
--   seeds                 runs      training runs behind the figure
--   n                     trials    noise draws behind it, over all runs
--   lost                  trials    draws of which every output is NaN or infinite
--   partly                trials    draws of which some outputs are
--   lost_pct              %         share of lost draws, mean of the runs
--   low_pct               %         lower end of the interval over training seeds; NULL: no interval
--   high_pct              %         upper end
--   least_pct             %         of the run with the smallest share
--   most_pct              %         of the run with the largest share
--   accuracy_pct          %         over all draws, mean of the runs
--   finite_pct            %         over the draws without such outputs, mean of the runs that have any; NULL: none
--   lost_accuracy_pct     %         over the lost draws, mean of the runs that have any: chance; NULL: none

WITH
per_run AS (
    SELECT dataset, model, training, placement, bn_mask, bn_kept, bn_sites, noise_model, sigma_reference, targets,
           bn_treatment, recalibration_images, precision, sampling, eta, train_seed, count(*) AS n,
           count_if(nonfinite = images) AS lost, count_if(nonfinite > 0 AND nonfinite < images) AS partly,
           avg(accuracy) AS accuracy, avg(accuracy) FILTER (nonfinite = 0) AS finite_accuracy,
           avg(accuracy) FILTER (nonfinite = images) AS lost_accuracy
    FROM trial
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model) AND eta > 0
    GROUP BY ALL
),
over_seeds AS (
    SELECT dataset, model, training, placement, bn_mask, bn_kept, bn_sites, noise_model, sigma_reference, targets,
           bn_treatment, recalibration_images, precision, sampling, eta,
           count(*) AS seeds, sum(n) AS n, sum(lost) AS lost, sum(partly) AS partly,
           avg(lost / n) AS share, stddev_samp(lost / n) AS sd, min(lost / n) AS least, max(lost / n) AS most,
           avg(accuracy) AS accuracy, avg(finite_accuracy) AS finite_accuracy, avg(lost_accuracy) AS lost_accuracy
    FROM per_run
    GROUP BY ALL
    HAVING sum(lost) + sum(partly) > 0
),
judged AS (SELECT *, half_width(seeds, sd, 0, NULL, $confidence) AS half FROM over_seeds),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, noise_model, sigma_reference, targets, bn_treatment,
           recalibration_images, precision, sampling, eta::DOUBLE AS eta, seeds::BIGINT AS seeds, n::BIGINT AS n,
           lost::BIGINT AS lost, partly::BIGINT AS partly, 100 * share AS lost_pct, low_pct(share, half) AS low_pct,
           high_pct(share, half) AS high_pct, 100 * least AS least_pct, 100 * most AS most_pct,
           100 * accuracy AS accuracy_pct, 100 * finite_accuracy AS finite_pct,
           100 * lost_accuracy AS lost_accuracy_pct
    FROM judged
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
         precision, sampling, bn_kept DESC, placement, eta
