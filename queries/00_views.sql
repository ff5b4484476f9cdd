-- What every query stands on: the store's tables, renamed and converted once.
--
-- The tables of the store (sweeps, points, runs, epochs, trials, probes, failures) are there under their own names,
-- each with the columns of bnsweep/store/schema.py. `scope` holds the names of the sweeps that are asked about,
-- `student` the quantiles of Student's t (one row per confidence), `paper_tables` the paper's own numbers.
-- What is made here is in the singular: sweep, plan, planned_point, run, trial, point, curve. What depends on the plan
-- alone is a table, since every question needs it; what depends on trials is a view.
--
-- The views below are for SQL of one's own, and about the chosen sweeps alone. A column that is not described here
-- means what it means in the first of those behind the view that has it.
--
-- Views
--   sweep          sweeps                 the newest version of each sweep
--   plan           points                 the points that each sweep plans; one that two sweeps plan is here twice
--   run            runs                   training runs by their last attempt, each once
--   planned_point  points, runs           planned points, each once
--   trial          planned_point, trials  noise draws, each once
--   point          planned_point          what was measured of a training run at one eta of a noise cell
--   curve          planned_point, point   A_avr of a training run in a noise cell
--   paper          points, probes         the paper's Tables II, III (eta is given) and IV (eta is NULL)
--
-- Columns
--   run.sweep                        -         name of the sweep that asked for this run first; which plan it: see plan
--   run.training                     -         digest of recipe and data: rows where it differs must not be averaged
--   planned_point.training           -         digest of recipe and data: rows where it differs must not be averaged
--   planned_point.wanted_half_width  fraction  wanted half-width of the interval on mean accuracy; NULL: fixed trials
--   planned_point.wanted_confidence  -         of that interval; NULL: fixed trials
--   planned_point.series             -         number of network, placement and noise cell, over training seeds
--   planned_point.curve              -         number of training run and noise cell, over eta
--   point.n                          trials    noise draws
--   point.accuracy                   fraction  their mean
--   point.nonfinite                  images    scored images with a NaN or infinite logit, over all draws
--   point.images                     images    test images scored, over all draws
--   point.spread                     -         variance of accuracy between draws; NULL: one draw
--   point.variance                   -         a draw's; variance / n is the mean's, also where trials stop early
--   point.a0                         fraction  accuracy of the network without noise
--   point.wide                       -         whether the interval is wider than wanted
--   point.capped                     -         whether it stays so: all trials that are allowed were made
--   curve.levels                     -         the eta above 0 that the average is over
--   curve.etas                       levels    how many they are
--   curve.least_n                    trials    noise draws at the eta with the fewest
--   curve.most_n                     trials    noise draws at the eta with the most
--   curve.n                          trials    noise draws over all eta above 0
--   curve.average_normalized         fraction  A_avr: mean of accuracy / a0 over these eta
--   curve.capped                     -         whether the interval of one of them stays wider than wanted
--   paper.paper_model                -         the paper's name of the network
--   paper.bn                         -         with or without BN
--   paper.value                      fraction  accuracy; A_avr where eta is NULL

-- Two-sided quantile of Student's t; beyond 1000 degrees of freedom the normal one. NULL for fewer than one.
CREATE MACRO t_quantile(df, level) AS (
    SELECT max(list_extract(quantiles, least(df, 1001)::BIGINT)) FROM student WHERE confidence = level AND df >= 1
);

-- Values that agree to the last image say nothing of their spread, and get no interval. Rounding leaves up to 1e-8.
CREATE MACRO if_varies(standard_error) AS CASE WHEN standard_error > 1e-7 THEN standard_error END;

-- Half-width of the interval on a mean over training seeds of means over noise draws. With several seeds their means
-- are the sample (both sources of chance are in them, n_seeds - 1 degrees of freedom): draws are never pooled as if
-- they were independent. With one seed it covers the draws of that network alone, and `interval_level` says so.
CREATE MACRO half_width(seeds, sd_seeds, n, sd_draws, level) AS
    CASE WHEN seeds >= 2 THEN t_quantile(seeds - 1, level) * if_varies(sd_seeds / sqrt(seeds))
         WHEN n >= 2 THEN t_quantile(n - 1, level) * if_varies(sd_draws / sqrt(n)) END;

CREATE MACRO interval_level(seeds, n) AS
    CASE WHEN seeds >= 2 THEN 'seeds' WHEN n >= 2 THEN 'draws' END;

-- The same for what is 0 (or 100 %) by definition, as the noise's effect at eta = 0 is: an interval of no width.
CREATE MACRO exact_width(seeds, n) AS
    CASE WHEN interval_level(seeds, n) IS NOT NULL THEN 0.0 END;

-- The ends of an interval on a share of images stay within 0 and 100 %.
CREATE MACRO low_pct(mean, half) AS CASE WHEN half IS NOT NULL THEN 100 * greatest(mean - half, 0) END;
CREATE MACRO high_pct(mean, half) AS CASE WHEN half IS NOT NULL THEN 100 * least(mean + half, 1) END;

-- A sweep is its newest version.
CREATE TABLE sweep AS
SELECT sweeps.*
FROM sweeps JOIN scope USING (sweep)
QUALIFY row_number() OVER (PARTITION BY sweep ORDER BY revision DESC) = 1;

-- The points that the sweeps plan; one that several sweeps plan is here once per sweep.
CREATE VIEW plan AS
SELECT points.* EXCLUDE (committed_at)
FROM points SEMI JOIN sweep ON points.sweep = sweep.sweep AND points.spec_sha256 = sweep.spec_sha256;

-- One label per data set, and one per network and set of BN sites, whatever each sweep calls them (`first-19`, a mask):
-- things are compared by label, and a figure must not fall into two rows. The paper's tables have neither mask nor
-- digest of the data: their labels stay.
CREATE TABLE label AS
WITH
digest_of AS (SELECT DISTINCT run_id, data_fingerprint FROM runs WHERE data_fingerprint IS NOT NULL),
used AS (
    SELECT DISTINCT run_id, data_fingerprint, dataset, model, bn_mask, placement
    FROM plan LEFT JOIN digest_of USING (run_id)
),
data_label AS (
    SELECT data_fingerprint, first(dataset ORDER BY length(dataset), dataset) AS dataset
    FROM used
    WHERE data_fingerprint IS NOT NULL
    GROUP BY ALL
),
placement_label AS (
    SELECT model, bn_mask,
           CASE WHEN bn_mask SIMILAR TO '1+' THEN 'all' WHEN bn_mask SIMILAR TO '0+' THEN 'none'
                ELSE first(placement ORDER BY placement = bn_mask, length(placement), placement) END AS placement
    FROM used
    WHERE bn_mask IS NOT NULL
    GROUP BY model, bn_mask
)
SELECT run_id, min(coalesce(data_label.dataset, used.dataset)) AS dataset,
       min(coalesce(placement_label.placement, used.placement)) AS placement
FROM used LEFT JOIN data_label USING (data_fingerprint) LEFT JOIN placement_label USING (model, bn_mask)
GROUP BY run_id;

-- What of `training` runs on several data sets can share: the recipe, and how many images it saw.
CREATE MACRO shared_recipe(recipe, train_images) AS left(md5(concat_ws(' ', recipe, train_images)), 6);

-- Training runs by their last attempt. `training` is short for everything of the recipe and the data that placements
-- share: rows with different values must not be averaged.
CREATE TABLE run AS
SELECT runs.* REPLACE (label.dataset AS dataset, label.placement AS placement),
       left(md5(concat_ws(' ', recipe, data_fingerprint, train_images, test_images, classes)), 6) AS training
FROM runs JOIN label USING (run_id)
QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY attempt DESC) = 1;

-- Every planned point once. eta stays decimal: floats are not joined on. `series` stands for network, placement and
-- noise cell, `curve` for training run and noise cell: 64-bit digests, since joins on numbers are quick and find NULLs.
CREATE TABLE planned_point AS
WITH
training_of AS (SELECT run_id, training, test_images FROM run),
wanted AS (
    SELECT point_id, any_value(plan) AS plan, min(min_trials) AS min_trials, max(max_trials) AS max_trials,
           min(half_width) AS wanted_half_width, max(confidence) AS wanted_confidence
    FROM plan
    GROUP BY point_id
)
SELECT point_id, plan.run_id, plan.train_seed,
       label.dataset, plan.model, coalesce(training, '') AS training, label.placement,
       plan.bn_mask, plan.bn_kept, plan.bn_sites,
       plan.noise_model, plan.sigma_reference, plan.targets, plan.bn_treatment, plan.recalibration_images,
       plan.precision, plan.sampling, plan.eta, min_trials, max_trials,
       wanted_half_width, wanted_confidence, test_images,
       hash(label.dataset, plan.model, training, label.placement, plan.bn_mask, plan.noise_model, plan.sigma_reference,
            plan.targets, plan.bn_treatment, plan.recalibration_images, plan.precision, plan.sampling) AS series,
       hash(plan.run_id, plan.noise_model, plan.sigma_reference, plan.targets, plan.bn_treatment,
            plan.recalibration_images, plan.precision, plan.sampling) AS curve
FROM wanted JOIN label ON label.run_id = plan.run_id LEFT JOIN training_of ON training_of.run_id = plan.run_id;

-- Points for which another sweep or an older version wanted more trials than these sweeps do: the rows beyond are not
-- theirs. Nearly always empty, and then it costs nothing to leave them out.
CREATE TABLE surplus AS
WITH wanted AS (SELECT point_id, max(max_trials) AS max_trials FROM plan GROUP BY point_id)
SELECT point_id, any_value(wanted.max_trials) AS max_trials
FROM points JOIN wanted USING (point_id)
GROUP BY point_id
HAVING max(points.max_trials) > any_value(wanted.max_trials);

CREATE VIEW counted AS
SELECT trials.*
FROM trials ANTI JOIN surplus ON trials.point_id = surplus.point_id AND trials.trial >= surplus.max_trials;

-- Where sweeps score the same network in the same cell in ways that no column tells apart (by another noise seed, other
-- numbers of images): nearly always empty.
CREATE TABLE scored_again AS
SELECT curve, eta FROM planned_point GROUP BY ALL HAVING count(*) > 1;

-- The draws there. One that several sweeps hold (the same noise, in batches of another size) counts once, by the row of
-- more images: `copy` is 1.
CREATE VIEW drawn_again AS
SELECT again.*, trial, accuracy, nonfinite, images,
       row_number() OVER (PARTITION BY curve, again.eta, noise_seed ORDER BY images DESC, point_id) AS copy
FROM counted JOIN (SELECT curve, eta, point_id FROM planned_point SEMI JOIN scored_again USING (curve, eta)) AS again
    USING (point_id);

CREATE VIEW counted_once AS
FROM counted ANTI JOIN (SELECT point_id, trial FROM drawn_again WHERE copy > 1) AS copies USING (point_id, trial);

-- Every noise draw of the sweeps. `accuracy` is the unbiased estimate for the full test set, however images were
-- chosen.
CREATE VIEW trial AS
SELECT planned_point.*, t.trial, t.noise_seed, t.accuracy, t.correct, t.images, t.nonfinite, t.realised_sigma_ratio,
       t.device, t.worker, t.started_at, t.duration_s, t.versions
FROM counted_once AS t JOIN planned_point USING (point_id);

-- Draws of each point, counted and summed up. `spread` is their variance (ddof 1), from sums of squares: twice as
-- quick as var_samp, and accuracies lie between 0 and 1, so that rounding is below 1e-15. `extreme` is how far the
-- most extreme draw lies from the mean.
CREATE VIEW tally AS
WITH sums AS (
    SELECT point_id, count(*) AS n, sum(accuracy) AS total, sum(accuracy * accuracy) AS squares,
           max(accuracy) AS highest, min(accuracy) AS lowest, sum(nonfinite) AS nonfinite, sum(images) AS images
    FROM counted
    GROUP BY point_id
)
SELECT point_id, n, total / n AS accuracy, nonfinite, images,
       CASE WHEN n >= 2 THEN greatest(squares - total * total / n, 0) / (n - 1) END AS spread,
       greatest(highest - total / n, total / n - lowest) AS extreme
FROM sums;

-- The variance that an interval over draws is made of. Where trials stop when the interval is narrow enough, it is that
-- of bnsweep/noise/sampling.py, which is valid at the stopping time: q(n) = 1.05 * t(n - 1), the most extreme draw
-- counts four times, and draws that all agree may differ by half an image.
CREATE MACRO variance_at_stop(spread, extreme, n, wanted_half_width, test_images) AS
    CASE WHEN wanted_half_width IS NULL OR n < 2 THEN spread
         ELSE 1.05^2 * (greatest(spread, 0.25 / test_images^2 / n) + 3 * extreme^2 / n) END;

CREATE MACRO standard_error(x, wanted_half_width) AS
    sqrt(variance_at_stop(var_samp(x), greatest(max(x) - avg(x), avg(x) - min(x)), count(*),
                          any_value(wanted_half_width), NULL) / count(*));

-- Whether the interval on a mean of n draws is wider than wanted (NULL: any will do).
CREATE MACRO too_wide(n, variance, wanted, level) AS
    coalesce(t_quantile(n - 1, level) * sqrt(variance / n) > wanted, false);

-- The points that have rows, one by one. `a0` is the accuracy of the clean network, which every cell of a run shares. A
-- point is `wide` while its interval is wider than its sweep wants, `capped` if it stays so: all trials it may have are
-- used.
CREATE VIEW measured_point AS
WITH
tallied AS MATERIALIZED (
    SELECT planned_point.*, tally.* EXCLUDE (point_id, extreme),
           variance_at_stop(spread, extreme, n, wanted_half_width, test_images) AS variance
    FROM tally JOIN planned_point USING (point_id)
),
baseline AS (SELECT run_id, precision, avg(accuracy) AS a0 FROM tallied WHERE eta = 0 GROUP BY run_id, precision)
SELECT measured.*, wide AND n >= max_trials AS capped
FROM (
    SELECT tallied.*, baseline.a0,
           too_wide(n, variance, wanted_half_width, wanted_confidence) AS wide
    FROM tallied LEFT JOIN baseline USING (run_id, precision)
) AS measured;

-- What was measured of a training run at one eta of a cell, in one row: draws are pooled, so that a network that was
-- scored twice is still one network. `variance` is that of a draw such that variance / n is that of their mean.
CREATE VIEW point AS
WITH
scored AS MATERIALIZED (FROM measured_point),
drawn AS (
    SELECT curve, eta, count(*) AS n, avg(accuracy) AS accuracy, sum(nonfinite) AS nonfinite, sum(images) AS images
    FROM drawn_again
    WHERE copy = 1
    GROUP BY curve, eta
),
widths AS (
    SELECT curve, eta, min(point_id) AS point_id,
           sum((n - 1) * spread) / nullif(sum(n) - count(*), 0) AS spread, sum(n * variance) / sum(n) AS variance,
           any_value(a0) AS a0, bool_or(wide) AS wide, bool_or(capped) AS capped
    FROM scored SEMI JOIN scored_again USING (curve, eta)
    GROUP BY curve, eta
),
pooled AS (SELECT * EXCLUDE (curve, eta) FROM widths JOIN drawn USING (curve, eta))
FROM scored ANTI JOIN scored_again USING (curve, eta)
UNION ALL BY NAME
SELECT planned_point.*, pooled.* EXCLUDE (point_id) FROM pooled JOIN planned_point USING (point_id);

-- The eta above 0 that A_avr is a mean over: of the grids that the runs of one network, recipe and cell plan, the one
-- by which most of their points count, so that placements and seeds are compared over the same eta. Runs that do not
-- plan all of them have no A_avr, and what they plan beside them (`off_grid`, nearly always empty) is left out of it.
CREATE TABLE grid AS
WITH
planned AS (
    SELECT curve, list(DISTINCT eta ORDER BY eta) AS levels,
           any_value(hash(dataset, model, training, noise_model, sigma_reference, targets, bn_treatment,
                          recalibration_images, precision, sampling)) AS field
    FROM planned_point
    WHERE eta > 0
    GROUP BY curve
),
grids AS (SELECT DISTINCT field, levels FROM planned),
chosen AS (
    SELECT grids.field, first(grids.levels ORDER BY served * len(grids.levels) DESC, len(grids.levels) DESC,
                                                    grids.levels) AS levels
    FROM (
        SELECT grids.field, grids.levels, count(*) AS served
        FROM grids JOIN planned ON planned.field = grids.field AND list_has_all(planned.levels, grids.levels)
        GROUP BY ALL
    ) AS grids
    GROUP BY grids.field
)
SELECT planned.curve, chosen.levels
FROM planned JOIN chosen USING (field)
WHERE list_has_all(planned.levels, chosen.levels);

CREATE TABLE off_grid AS
SELECT curve, eta
FROM planned_point JOIN grid USING (curve)
WHERE eta > 0 AND NOT list_contains(levels, eta);

-- Training runs by noise cell, with the eta above 0 that their A_avr is over.
CREATE TABLE planned_curve AS
SELECT curve, any_value(series) AS series, any_value(run_id) AS run_id, any_value(train_seed) AS train_seed,
       any_value(dataset) AS dataset, any_value(model) AS model, any_value(training) AS training,
       any_value(placement) AS placement, any_value(bn_mask) AS bn_mask, any_value(bn_kept) AS bn_kept,
       any_value(bn_sites) AS bn_sites, any_value(noise_model) AS noise_model,
       any_value(sigma_reference) AS sigma_reference, any_value(targets) AS targets,
       any_value(bn_treatment) AS bn_treatment, any_value(recalibration_images) AS recalibration_images,
       any_value(precision) AS precision, any_value(sampling) AS sampling, any_value(levels) AS levels,
       len(any_value(levels)) AS etas
FROM planned_point JOIN grid USING (curve)
GROUP BY curve;

-- A_avr per training run and noise cell, eq. 14: the mean of a/a0 over every eta of the grid. A run of which one of
-- them has no rows yet is left out: its average would be of something else.
CREATE VIEW curve AS
WITH measured AS (
    SELECT curve, count(*) AS etas, min(n) AS least_n, max(n) AS most_n, sum(n) AS n,
           any_value(a0) AS a0, avg(accuracy / nullif(a0, 0)) AS average_normalized, bool_or(capped) AS capped
    FROM point ANTI JOIN off_grid USING (curve, eta)
    WHERE eta > 0
    GROUP BY curve
)
SELECT planned_curve.*, measured.* EXCLUDE (curve, etas)
FROM measured JOIN planned_curve USING (curve, etas);

-- A_avr per network, placement and cell, over training seeds. With several seeds: a t interval on the seeds' averages.
-- With one: a draw has the same noise at every eta, so the average is made per draw where all eta have the same
-- draws (t interval on those). Where they have not, the standard errors of the eta are averaged as if all were fully
-- correlated, which is never too narrow (Minkowski's inequality). a0 is a census of the test set for the network.
CREATE MACRO averages(level_of) AS TABLE
WITH
over_seeds AS (
    SELECT series, dataset, model, training, placement, bn_mask, bn_kept, bn_sites,
           noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling,
           count(*) AS seeds, sum(n) AS n, any_value(curve) AS curve, any_value(etas) AS etas,
           any_value(levels) AS levels,
           avg(a0) AS a0, stddev_samp(a0) AS sd_a0,
           avg(average_normalized) AS mean, stddev_samp(average_normalized) AS sd_seeds,
           any_value(least_n) AS least_n, any_value(most_n) AS most_n, count_if(capped) AS capped
    FROM curve
    WHERE average_normalized IS NOT NULL
    GROUP BY ALL
),
one_seed AS (SELECT curve, a0, least_n = most_n AS even FROM over_seeds WHERE seeds = 1 AND least_n >= 2),
own_trials AS (
    SELECT curve, even, eta, noise_seed, accuracy / a0 AS normalized, wanted_half_width
    FROM trial JOIN one_seed USING (curve) ANTI JOIN off_grid USING (curve, eta)
    WHERE eta > 0
),
per_trial AS (
    SELECT curve, avg(normalized) AS normalized, any_value(wanted_half_width) AS wanted_half_width
    FROM own_trials
    WHERE even
    GROUP BY curve, noise_seed
),
per_level AS (
    SELECT curve, standard_error(normalized, wanted_half_width) AS se FROM own_trials WHERE NOT even GROUP BY curve, eta
),
own_se AS (
    SELECT curve, standard_error(normalized, wanted_half_width) AS se FROM per_trial GROUP BY curve
    UNION ALL
    SELECT curve, avg(se) FROM per_level GROUP BY curve
),
final AS (
    SELECT over_seeds.*,
           if_varies(CASE WHEN seeds >= 2 THEN sd_seeds / sqrt(seeds) ELSE own_se.se END) AS se,
           CASE WHEN seeds >= 2 THEN seeds - 1 ELSE least_n - 1 END AS df
    FROM over_seeds LEFT JOIN own_se USING (curve)
)
SELECT *, t_quantile(df, level_of) * se AS half,
       CASE WHEN se IS NOT NULL THEN interval_level(seeds, least_n) END AS level
FROM final;

-- The same for comparing placements that have not all been trained with the same seeds, as a search's have not: what a
-- seed does to all of them (initial weights, order of images, noise draws) is often more than what tells them apart. So
-- a0 and mean are moved to where they would be with all of the network's seeds, by the level of each seed: its mean
-- difference, over placements that have both, from the seed that most placements have. Nothing moves where all
-- placements have the same seeds.
CREATE MACRO comparable(level_of) AS TABLE
WITH
average AS (
    SELECT *, hash(dataset, model, training, noise_model, sigma_reference, targets, bn_treatment, recalibration_images,
                   precision, sampling) AS field
    FROM averages(level_of)
),
single AS (
    SELECT average.field, average.curve AS placed, curve.bn_mask, curve.train_seed, curve.a0, curve.average_normalized
    FROM curve JOIN average USING (series)
    WHERE curve.average_normalized IS NOT NULL
),
common AS (
    SELECT field, first(train_seed ORDER BY placements DESC, train_seed) AS train_seed
    FROM (SELECT field, train_seed, count(*) AS placements FROM single GROUP BY ALL)
    GROUP BY field
),
base AS (FROM single SEMI JOIN common USING (field, train_seed)),
seed_level AS (
    SELECT single.field, single.train_seed, avg(single.a0 - base.a0) AS a0,
           avg(single.average_normalized - base.average_normalized) AS mean
    FROM single JOIN base USING (field, bn_mask)
    GROUP BY ALL
),
field_level AS (SELECT field, avg(a0) AS a0, avg(mean) AS mean FROM seed_level GROUP BY field),
own_level AS (
    SELECT placed, avg(seed_level.a0) AS a0, avg(seed_level.mean) AS mean
    FROM single JOIN seed_level USING (field, train_seed)
    GROUP BY placed
),
final AS (
    SELECT average.* REPLACE (average.a0 + coalesce(field_level.a0 - own_level.a0, 0) AS a0,
                              average.mean + coalesce(field_level.mean - own_level.mean, 0) AS mean)
    FROM average LEFT JOIN field_level USING (field) LEFT JOIN own_level ON own_level.placed = average.curve
)
SELECT * FROM final;

-- The cell that overviews and claims are about: the paper's (weights, stale, tensor_std), or the nearest there is.
CREATE VIEW main_cell AS
SELECT DISTINCT noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling
FROM planned_point
ORDER BY list_position(['stale', 'folded', 'recalibrated'], bn_treatment),
         list_position(['weights', 'all', 'weights+bias', 'weights+bias+affine'], targets),
         list_position(['tensor_std', 'tensor_max', 'channel_max', 'global_rms', 'absolute'], sigma_reference),
         precision = 'fp32' DESC, sampling = 'full' DESC, noise_model, recalibration_images DESC
LIMIT 1;

CREATE VIEW main_point AS
SELECT * FROM point
SEMI JOIN main_cell
    USING (noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling);

CREATE VIEW main_curve AS
SELECT * FROM curve
SEMI JOIN main_cell
    USING (noise_model, sigma_reference, targets, bn_treatment, recalibration_images, precision, sampling);

-- A network without BN sites, all of whose sites keep BN, counts as one without BN. The paper's tables have no counts.
CREATE MACRO everywhere(placement, bn_kept, bn_sites) AS
    coalesce(bn_sites, 1) > 0 AND (placement = 'all' OR coalesce(bn_kept = bn_sites, false));

-- Networks that differ in depth alone, i.e. in the number at the end of the name: resnet8, resnet20, ... have depth
-- 6n + 2; resnet18 and resnet34 have four stages and a wider stem.
CREATE MACRO family(model) AS
    CASE WHEN model IN ('resnet18', 'resnet34') THEN 'resnet (four stages)'
         ELSE regexp_replace(model, '[-_]?[0-9]+(_bn)?$', '\1') END;

-- The paper's comparison, from rows (the name of a CTE with columns part, dataset, model, training, train_seed,
-- bn_kept, bn_sites, placement, value, n): BN everywhere against none, or against the placement with the fewest BN
-- layers where the network was not trained without; placements with as few are averaged. The paper's tables do not say
-- how many the fewest are.
CREATE MACRO all_against_fewest(rows) AS TABLE (
    WITH
    sided AS (SELECT *, everywhere(placement, bn_kept, bn_sites) AS x FROM query_table(rows)),
    compared AS (
        SELECT * FROM sided
        WINDOW stratum AS (PARTITION BY part, dataset, model, training)
        QUALIFY count_if(NOT x) OVER stratum > 0
            AND (x OR coalesce(bn_kept, 0) = min(coalesce(bn_kept, 0)) FILTER (WHERE NOT x) OVER stratum)
    ),
    named AS (
        SELECT *, count(DISTINCT training) OVER (PARTITION BY dataset, model) AS trainings,
               CASE WHEN x THEN 'BN everywhere' WHEN bn_kept = 0 THEN 'no BN' ELSE placement END AS side
        FROM compared
    ),
    final AS (
        SELECT part, dataset, model || CASE WHEN trainings > 1 THEN ' ' || training ELSE '' END AS model,
               'all against the fewest' AS placement, train_seed, x::INTEGER::DOUBLE AS x,
               string_agg(DISTINCT side, ', ' ORDER BY side) AS x_label,
               100 * avg(value) AS value_pct, sum(n)::BIGINT AS n
        FROM named
        WHERE value IS NOT NULL
        GROUP BY part, dataset, model, training, trainings, train_seed, x
    )
    SELECT * FROM final
);

-- The paper's Tables II, III (eta is given) and IV (eta is NULL) under our names of networks. Its ResNet_36 is most
-- likely a ResNet-32 (PROTOCOL: depths are 6n + 2), so both of ours are set beside it. Fractions.
CREATE VIEW paper AS
WITH
network(paper_model, model) AS (
    VALUES ('ResNet_20', 'resnet20'), ('ResNet_36', 'resnet32'), ('ResNet_36', 'resnet36'), ('ResNet_44', 'resnet44'),
           ('ResNet_56', 'resnet56'), ('VGG_16', 'vgg16')
)
SELECT paper_tables.dataset, paper_tables.paper_model, network.model, paper_tables.bn, paper_tables.eta,
       paper_tables.value
FROM paper_tables JOIN network USING (paper_model);
