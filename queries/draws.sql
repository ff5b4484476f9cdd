-- How far do the noise draws on one network lie apart?
--
-- Every draw of the chosen training run, cell and noise level.
--
-- Parameters
--   run_id        VARCHAR  NULL  only this training run; NULL: all
--   targets       VARCHAR  NULL  only noise on these parameters; NULL: all
--   bn_treatment  VARCHAR  NULL  only this treatment of BN; NULL: all
--
-- Columns
--   run_id                -         training run
--   noise_model           -         noise model
--   sigma_reference       -         what eta multiplies
--   targets               -         which parameters are hit
--   bn_treatment          -         what happens to BN around the noise
--   recalibration_images  images    training images that re-estimate BN; 0 unless recalibrated
--   precision             -         of the forward pass
--   sampling              -         test images per trial: full, random or strata
--   eta                   fraction  noise level, of the sigma reference
--   trial                 -         number of the draw
--   accuracy_pct          %         accuracy on the full test set
--   nonfinite_pct         %         scored images with a NaN or infinite logit

WITH
final AS (
    SELECT run_id, noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           eta::DOUBLE AS eta, trial, 100 * accuracy AS accuracy_pct,
           100 * nonfinite / nullif(images, 0) AS nonfinite_pct
    FROM trial
    WHERE run_id = coalesce($run_id, run_id) AND targets = coalesce($targets, targets)
      AND bn_treatment = coalesce($bn_treatment, bn_treatment)
)
SELECT * FROM final
ORDER BY run_id, bn_treatment, targets, sigma_reference, noise_model, recalibration_images, precision, sampling,
         eta, trial
