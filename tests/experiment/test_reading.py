import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnsweep.errors import InputError, SpecError
from bnsweep.experiment.files import read_text, ready_specs
from bnsweep.experiment.identity import canonical_json
from bnsweep.experiment.reading import parse_spec, read_spec
from bnsweep.experiment.spec import AdaptiveTrials, Spec

SMALL = "name: a\ndata: digits\nmodels: resnet8\n"


def test_single_values_stand_for_lists_and_listed_noise_fields_for_a_grid():
    spec = parse_spec(SMALL + "noise: {targets: [weights, all], bn_treatment: [stale, folded]}\ntrain_seeds: 3\n")
    assert [model.name for model in spec.models] == ["resnet8"]
    assert spec.train_seeds == (0, 1, 2)
    assert [(cell.targets, cell.bn_treatment) for cell in spec.noise] == [
        ("weights", "stale"),
        ("weights", "folded"),
        ("all", "stale"),
        ("all", "folded"),
    ]


def test_eta_is_decimal_sorted_and_holds_the_baseline():
    spec = parse_spec(SMALL + "eta: [0.3, 0.1, 0.1]\n")
    assert spec.eta == (Decimal(0), Decimal("0.1"), Decimal("0.3"))


def test_all_problems_come_at_once_with_their_lines():
    text = (
        "name: a\n"
        "data: digits\n"
        "models: [resnet8, {name: vgg-small, placements: [{first: x}]}]\n"
        "training:\n"
        "  epochs: 0.5\n"
        "  schedule: {kind: step, milestone: [1]}\n"
        "placement: [all]\n"
        "noise: {bn_treatment: stal}\n"
        "trials: {half_width: 0.01, min: 9, max: 3}\n"
    )
    with pytest.raises(SpecError) as caught:
        parse_spec(text, source="my.yaml")
    lines = {problem.line: str(problem) for problem in caught.value.problems}
    assert set(lines) == {3, 5, 6, 7, 8, 9}
    assert "`first` takes a whole number" in lines[3]
    assert "training.epochs" in lines[5]
    assert "milestones" in lines[6]
    assert "valid keys here: version, name" in lines[7]
    assert "'stale', 'folded' or 'recalibrated'" in lines[8]
    assert "`min <= max` must hold, but got min=9, max=3" in lines[9]
    assert str(caught.value).startswith("my.yaml has 6 problems:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("- a", "a mapping of keys"),
        ("a: [", "line 1: not valid YAML"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases"),
        (SMALL + "name: b\n", "line 4: name: the key stands here twice"),
        # Keys that are named as members of a union are in pydantic's own paths.
        (
            SMALL + "training: {cosine: true}\n",
            "line 4: training.cosine: unknown key; valid keys here: epochs, batch_size",
        ),
        (SMALL + "step: 3\n", "line 4: step: unknown key; valid keys here: version, name"),
        (
            SMALL + "probes: {ats: 1}\n",
            r"probes.ats: unknown key \(did you mean 'at'\?\); valid keys here: at, cost",
        ),
        (
            SMALL + "serach: {trainings: 3}\n",
            r"line 4: serach: unknown key \(did you mean 'search'\?\); valid keys here: .*probes, search",
        ),
        *(
            (
                SMALL + f"training: {{schedule: {given}}}\n",
                r"training.schedule: one of constant, step, cosine, or a mapping such as {kind: cosine, .*, but got "
                + said,
            )
            for given, said in [
                ("cosin", r"{'kind': 'cosin'} \(did you mean 'cosine'\?\)$"),
                ("{kind: setp}", r".* \(did you mean 'step'\?\)$"),
                ("{warmup: 0.1}", r"{'warmup': 0.1}$"),
                ("[cosine]", r"\['cosine'\]$"),
                ("3", "3$"),
            ]
        ),
        (SMALL + "training: {augment: false}\n", r"training.augment: auto, or a mapping such as .*, but got False"),
        (SMALL + f"noise_seed: {'9' * 5000}\n", "at most 40 characters"),
        (SMALL + "data2: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        (SMALL + "eta: [.nan]\n", "eta.0"),
        (SMALL + "eta: [-0.1]\n", "greater than or equal to 0"),
        (SMALL + "trials: {half_width: 0}\n", "greater than or equal to 0.000001, but got 0"),
        (SMALL + "trials: {half_width: 1.0e-300}\n", "greater than or equal to 0.000001, but got 1e-300"),
        (SMALL + "trials: {half_width: 0.01, confidence: 1}\n", "less than or equal to 0.999999, but got 1"),
        (SMALL + "trials: 1000000000\n", "less than or equal to 1000000, but got 1000000000"),
        (
            SMALL + "resources: {trial: {cpu: 0}}\n",
            "takes a part of a core or of a GPU, but got cpu: 0 and gpu: 0",
        ),
        (SMALL + "resources: {train: {cpu: 0.00001}}\n", "`cpu` is a multiple of 0.0001, but got 1e-05"),
        (SMALL + "noise: [{targets: []}, {targets: all}]\n", "one cell per value, but targets is empty"),
        (SMALL + "images: auto\n", "`images: auto` needs a half-width"),
        (SMALL + "noise: {targets: weights, recalibration_images: 5}\n", "goes with bn_treatment: recalibrated"),
        (SMALL.replace("resnet8", "[resnet8, resnet8]"), "names resnet8 twice"),
        (SMALL.replace("name: a", "name: ../../etc"), "name: 1 to 64 letters, digits, .* first, but got '../../etc'"),
        (SMALL.replace("name: a", "name: 'my sweep!'"), "name: 1 to 64 letters, digits, .* without blanks"),
        (
            SMALL + "train_seeds: two\n",
            r"train_seeds: a list of seeds, or how many: 3 .* \[0, 1, 2\], but got 'two'",
        ),
        (SMALL + "eta: [1%, 10%]\n", "line 4: eta: eta is a fraction: write 0.01 for 1 %, but got '1%'"),
        (SMALL + "eta: 2.5 %\n", "eta is a fraction: write 0.025 for 2.5 %"),
        (SMALL + "x: " + "[" * 40 + "]" * 40, "nested deeper than 20 levels"),
        ("a: " + "x" * 1_000_001, "at most 1000000 bytes"),
    ],
)
def test_what_is_no_spec_is_refused_with_the_rule(text, message):
    with pytest.raises(SpecError, match=message):
        parse_spec(text)


@pytest.mark.parametrize("kind", ["constant", "step", "cosine"])
def test_a_schedule_s_word_stands_for_its_defaults(kind):
    """One spec and one identity, be it the sweep's recipe or a network's own."""
    own = SMALL.replace("resnet8", "[{{name: resnet8, training: {{schedule: {0}}}}}]") + "training: {{schedule: {0}}}\n"
    word, mapping = (parse_spec(own.format(each)) for each in (kind, f"{{kind: {kind}}}"))
    assert word == mapping
    assert word.training.schedule.kind == kind
    assert canonical_json(word.model_dump(mode="json")) == canonical_json(mapping.model_dump(mode="json"))
    assert word.models[0].training.model_fields_set == mapping.models[0].training.model_fields_set


def test_a_misspelt_key_of_many_cells_is_said_once():
    text = SMALL + "noise: {target: [weights, all], bn_treatmnt: [stale, folded], targets: [weights, all]}\n"
    with pytest.raises(SpecError) as caught:
        parse_spec(text)
    assert [problem.where for problem in caught.value.problems] == ["noise.0.target", "noise.0.bn_treatmnt"]
    assert "did you mean 'bn_treatment'?" in str(caught.value)


@pytest.mark.parametrize(
    ("noise", "where"),
    [
        ("\n- targets: [weights, bogus]\n- bn_treatment: folded\n", "line 5: noise.1.targets"),
        ("\n- targets: [weights, all]\n- bn_treatment: folded\n  targets: bogus\n", "line 7: noise.2.targets"),
        ("\n- bn_treatment: stale\n- targets: [weights, all]\n  model: odd\n", "line 7: noise.1.model"),
        ("\n  targets: all\n  bn_treatment: bogus\n", "line 6: noise.0.bn_treatment"),
    ],
)
def test_a_fault_stands_at_its_line_though_lists_stand_for_many_cells(noise, where):
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{SMALL}noise:{noise}")
    assert [line.strip().startswith(f"{where}: ") for line in str(caught.value).splitlines()[1:]] == [True]


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ("training: {epochs: yes}", "training.epochs"),
        ("training: {learning_rate: on}", "training.learning_rate"),
        ("training: {chance_epochs: no}", "training.chance_epochs"),
        ("training: {schedule: {kind: step, milestones: [yes]}}", "training.schedule.milestones.0"),
        ("trials: {half_width: 0.01, min: yes}", "trials.min"),
        ("resources: {train: {gpu: yes}}", "resources.train.gpu"),
        ("noise: {bn_treatment: recalibrated, recalibration_images: on}", "noise.0.recalibration_images"),
        ("probes: {cost_frac: yes}", "probes.cost_frac"),
        ("search: {trainings: 9, batch: yes}", "search.batch"),
    ],
)
def test_a_word_is_no_number(entry, where):
    with pytest.raises(SpecError, match=f"line 4: {where}: a number is wanted here, but this is (true|false)"):
        parse_spec(f"{SMALL}{entry}\n")


@pytest.mark.parametrize(("name", "meant"), [("quickstrat", "quickstart"), ("paper-cifar", "paper-cifar10")])
def test_a_misspelt_ready_sweep_is_guessed(name, meant):
    with pytest.raises(InputError, match=rf"no sweep file '{name}' \(did you mean '{meant}'\?\)\. Give a path"):
        read_text(name)


def test_a_directory_is_no_sweep_file(tmp_path):
    with pytest.raises(InputError, match="is a directory, but a sweep file is wanted"):
        read_text(tmp_path)


def _lists(*keys):
    return ", ".join(f"{key}: [{', '.join(['1'] * 1000)}]" for key in keys)


BOMBS = {
    "nested": ("x: " + "[" * 400_000, "line 4: nested deeper than 20 levels"),
    "nested in blocks": ("x:\n" + "- " * 400_000, "nested deeper than 20 levels"),
    "long list": ("eta: [" + "1," * 450_000 + "]", "at most 100000 words and marks"),
    "many keys": ("x: {" + ", ".join(f"k{i}: 1" for i in range(60_000)) + "}", "at most 100000 words and marks"),
    "huge integer": ("noise_seed: " + "9" * 900_000, "a number has at most 40 characters"),
    "huge hexadecimal": ("noise_seed: 0x" + "f" * 900_000, "a number has at most 40 characters"),
    "huge base 60": ("noise_seed: " + ":".join(["59"] * 200_000), "a number has at most 40 characters"),
    "huge exponent": ("eta: [1e999999999]", "no more than 9 digits"),
    "huge count": ("train_seeds: 1" + "0" * 30, "from 1 to 100000"),
    "huge mask": ("placements: ['" + "1" * 900_000 + "']", "at most 10000 digits"),
    "product of lists": (
        "noise: {" + _lists("sigma_reference", "targets", "bn_treatment", "recalibration_images") + "}",
        "at most 10000 cells, but these lists give 1000000000000",
    ),
    "aliases": (
        "a: &a [1]\n" + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]" for i in range(20)),
        "anchors and aliases",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_fast(bomb):
    text, message = BOMBS[bomb]
    begin = time.process_time()
    with pytest.raises(SpecError, match=message):
        parse_spec(SMALL + text)
    assert time.process_time() - begin < 10  # about one second here; without limits, minutes or for ever


def test_a_missing_file_names_the_ready_sweeps(tmp_path):
    with pytest.raises(InputError, match="ready sweeps: .*quickstart"):
        read_spec(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_spec(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="a: cannot be read as a UTF-8 text file: .*File name too long"):
        read_spec("a" * 300)


@pytest.mark.parametrize("name", sorted(ready_specs()))
def test_every_ready_sweep_is_valid_and_named_like_its_file(name):
    spec, text = read_spec(name)
    assert spec.name == name
    assert text.startswith("#")


def test_a_spec_survives_its_own_json():
    spec = parse_spec(SMALL + "placements: [all, {first: 2}, '0101']\ntrials: {half_width: 0.01}\nimages: auto\n")
    assert Spec.model_validate(spec.model_dump(mode="json")) == spec
    assert isinstance(spec.trials, AdaptiveTrials)


def test_every_field_is_described():
    def undescribed(schema):
        for part in [schema, *schema.get("$defs", {}).values()]:
            for name, field in part.get("properties", {}).items():
                if not ({"description", "$ref", "items", "const", "allOf"} & set(field)):
                    yield name

    assert set(undescribed(Spec.model_json_schema())) <= {"evaluation", "resources", "training"}


@given(st.text(max_size=200))
def test_any_text_gives_a_spec_or_a_spec_error(text):
    try:
        parse_spec(text)
    except SpecError as error:
        assert error.problems


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["all", "digits"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(Spec.model_fields)), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(list(Spec.model_fields)), VALUES)
def test_any_value_of_any_key_gives_a_spec_or_a_spec_error(key, value):
    import yaml

    content = {"name": "a", "data": "digits", "models": "resnet8", key: value}
    try:
        parse_spec(yaml.dump(content))
    except SpecError as error:
        assert error.problems


@pytest.mark.parametrize("line", ["images: yes", "trials: true", "train_seeds: [true, 0]"])
def test_a_yes_is_no_number(line):
    with pytest.raises(SpecError, match="a number is wanted here, but this is true"):
        parse_spec(f"name: mine\ndata: digits\nmodels: resnet8\n{line}\n")


def test_words_that_stand_in_several_places_are_the_same():
    from bnsweep.analysis.figures import CONTRAST, HIT
    from bnsweep.analysis.queries import QUERIES
    from bnsweep.experiment import reading, vocabulary
    from bnsweep.training.schedules import SCHEDULES

    assert tuple(SCHEDULES) == reading.SCHEDULES
    assert f"status IN {vocabulary.NETWORK_ENDS}" in QUERIES["sweeps"].sql
    assert set(vocabulary.TARGETS) == set(CONTRAST) == set(HIT)
