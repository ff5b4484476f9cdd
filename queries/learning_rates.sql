-- Is it BN, or the learning rate?
--
-- A_avr and the loss that training reached for each learning rate that a placement was trained with, all else being
-- equal. Placements can so be compared at the same rate, and each at the rate that suits it best (`tuned`: no other one
-- gives a higher baseline). With --sweep, only that sweep's training seeds count.
--
-- Parameters
--   dataset     VARCHAR  NULL  only this data set; NULL: all
--   model       VARCHAR  NULL  only this network; NULL: all
--   confidence  DOUBLE   0.95  of every interval
--
-- Columns
--   dataset                 -       data set label
--   model                   -       network
--   placement               -       where BN stays
--   bn_kept                 sites   BN sites that keep BN
--   bn_sites                sites   BN sites of the network
--   optimizer               -       adam or sgd
--   learning_rate           -       initial learning rate
--   training                -       digest of recipe and data; see query runs
--   noise_model             -       noise model
--   sigma_reference         -       what eta multiplies
--   targets                 -       which parameters are hit
--   bn_treatment            -       what happens to BN around the noise
--   seeds                   runs    training runs behind the figure
--   n                       trials  noise draws behind it, over all runs
--   train_loss              nats    mean cross-entropy over the last epoch, mean of the runs
--   baseline_pct            %       a0, accuracy of the clean networks
--   average_normalized_pct  %       A_avr
--   low_pct                 %       lower end of the interval on average_normalized_pct; NULL: no interval
--   high_pct                %       upper end
--   level                   -       seeds: covers training seeds and draws; draws: these networks only; NULL: none
--   tuned                   -       no other learning rate gives this placement a higher baseline

WITH
recipe AS (
    -- What is the same but for the rate: the digest of the rest, so that nothing else is taken for its effect.
    SELECT dataset, model, placement, bn_mask, training, optimizer, learning_rate,
           md5(concat_ws(' ', regexp_replace(recipe, '"learning_rate":[^,}]*', ''), data_fingerprint, train_images))
               AS rest,
           avg(train_loss) AS train_loss
    FROM run
    WHERE dataset = coalesce($dataset, dataset) AND model = coalesce($model, model)
    GROUP BY ALL
),
averaged AS (FROM averages($confidence)),
measured AS (
    SELECT averaged.*, recipe.* EXCLUDE (dataset, model, placement, bn_mask, training)
    FROM averaged JOIN recipe USING (dataset, model, placement, bn_mask, training)
),
several AS (
    SELECT *, max(a0) OVER arm AS best
    FROM measured
    WINDOW arm AS (PARTITION BY dataset, model, bn_mask, rest, noise_model, sigma_reference, targets, bn_treatment,
                                recalibration_images, precision, sampling)
    QUALIFY min(learning_rate) OVER arm < max(learning_rate) OVER arm
),
final AS (
    SELECT dataset, model, placement, bn_kept, bn_sites, optimizer, learning_rate, training, noise_model,
           sigma_reference, targets, bn_treatment, seeds::BIGINT AS seeds, n::BIGINT AS n, train_loss,
           100 * a0 AS baseline_pct, 100 * mean AS average_normalized_pct, low_pct(mean, half) AS low_pct,
           100 * (mean + half) AS high_pct, level, a0 = best AS tuned
    FROM several
)
SELECT * FROM final
ORDER BY dataset, bn_sites, model, noise_model, sigma_reference, targets, bn_treatment, optimizer, bn_kept DESC,
         placement, learning_rate
