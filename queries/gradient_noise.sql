-- How noisy was each network's gradient, and how much accuracy does the network keep?
--
-- C = E||grad L_i - grad L_D||^2 (eq. 6 of the paper), at the last epoch that was measured: from single images with BN
-- in evaluation mode, and from batches with BN in training mode. The paper's explanation is that BN lowers C, and that
-- a network trained with less noise resists less later. Needs `probes` in the sweep file.
--
-- Parameters
--   dataset  VARCHAR  NULL  only this data set; NULL: all
--   model    VARCHAR  NULL  only this network; NULL: all
--
-- Columns
--   dataset                 -       data set label
--   model                   -       network
--   training                -       digest of recipe and data; see query runs
--   placement               -       where BN stays
--   bn_kept                 sites   BN sites that keep BN
--   bn_sites                sites   BN sites of the network
--   train_seed              -       training seed
--   run_id                  -       digest of everything that influences the network's weights
--   noise_model             -       noise model
--   sigma_reference         -       what eta multiplies
--   targets                 -       which parameters are hit
--   bn_treatment            -       what happens to BN around the noise
--   epoch                   epochs  epochs completed when C was measured
--   noise                   -       C from single images
--   noise_low               -       lower end of its 95 % interval
--   noise_high              -       upper end
--   noise_batch             -       C from batches, BN in training mode
--   noise_batch_low         -       lower end of its 95 % interval
--   noise_batch_high        -       upper end
--   baseline_pct            %       a0, accuracy of the clean network
--   average_normalized_pct  %       A_avr of this training run
--   n                       trials  noise draws behind it

WITH
last_measured AS (
    SELECT run_id, probe, epoch, value, low, high
    FROM probes
    WHERE probe IN ('gradient_noise', 'gradient_noise_batch')
    QUALIFY row_number() OVER (PARTITION BY run_id, probe ORDER BY epoch DESC) = 1
),
noise AS (
    SELECT run_id, max(epoch) AS epoch,
           any_value(value) FILTER (probe = 'gradient_noise') AS noise,
           any_value(low) FILTER (probe = 'gradient_noise') AS noise_low,
           any_value(high) FILTER (probe = 'gradient_noise') AS noise_high,
           any_value(value) FILTER (probe = 'gradient_noise_batch') AS noise_batch,
           any_value(low) FILTER (probe = 'gradient_noise_batch') AS noise_batch_low,
           any_value(high) FILTER (probe = 'gradient_noise_batch') AS noise_batch_high
    FROM last_measured
    GROUP BY run_id
),
final AS (
    SELECT dataset, model, training, placement, bn_kept, bn_sites, train_seed, run_id,
           noise_model, sigma_reference, targets, bn_treatment,
           epoch, noise, noise_low, noise_high, noise_batch, noise_batch_low, noise_batch_high,
           100 * a0 AS baseline_pct, 100 * average_normalized AS average_normalized_pct, n::BIGINT AS n
    FROM curve JOIN noise USING (run_id)
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, training, noise_model, sigma_reference, targets, bn_treatment, bn_kept DESC,
         placement, train_seed
