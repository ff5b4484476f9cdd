import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnsweep.errors import BnsweepError, PlacementError
from bnsweep.experiment.architecture import Architecture, Site
from bnsweep.experiment.placement import Placement

SITES = tuple(
    Site(path, 16, stage, shortcut)
    for path, stage, shortcut in [
        ("stem", 1, False),
        ("stages.0.a", 1, False),
        ("stages.0.b", 1, False),
        ("stages.1.a", 2, False),
        ("stages.1.shortcut", 2, True),
        ("stages.1.b", 2, False),
    ]
)
NETWORK = Architecture("toy", SITES, parameters=1, multiply_adds=1, signature="x")


@pytest.mark.parametrize(
    ("written", "mask", "label"),
    [
        ("all", "111111", "all"),
        ("none", "000000", "none"),
        ("shortcuts", "000010", "shortcuts"),
        ({"first": 2}, "110000", "first-2"),
        ({"last": 2}, "000011", "last-2"),
        ({"every": 2}, "101010", "every-2"),
        ({"every": 1}, "111111", "every-1"),
        ({"stages": [2]}, "000111", "stages-2"),
        ({"sites": ["stem", "stages.1.*"]}, "100111", "sites-stem-stages.1.*"),
        ("010101", "010101", "010101"),
    ],
)
def test_a_placement_keeps_the_sites_that_it_names(written, mask, label):
    placement = Placement.parse(written)
    assert placement.mask(NETWORK) == mask
    assert placement.label == label
    assert Placement.parse(placement.to_yaml()) == placement


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"first": 7}, "does not fit toy: it has 6 sites. Its sites: stem, stages.0.a"),
        ({"stages": [3]}, r"no stage 3, only \[1, 2\]"),
        ({"sites": ["layer9"]}, "no site is named 'layer9'"),
        ("0101", "the mask has 4 digits for 6 sites"),
    ],
)
def test_a_placement_that_does_not_fit_says_which_sites_there_are(written, message):
    with pytest.raises(PlacementError, match=message):
        Placement.parse(written).mask(NETWORK)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("some", "unknown placement 'some'"),
        ("", "unknown placement ''"),
        (101, "must stand in quotes"),
        ({"first": 0}, "whole number from 1"),
        ({"first": True}, "whole number from 1"),
        ({"first": 1, "last": 1}, "a placement is one of"),
        ({"stages": []}, "at least one entry"),
        ({"stages": ["a"]}, "stage numbers"),
        ({"sites": [1]}, "module paths"),
        (None, "a placement is one of"),
    ],
)
def test_what_is_no_placement_is_refused_with_the_forms(written, message):
    with pytest.raises(ValueError, match=message):
        Placement.parse(written)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["all", "first", "0101"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["first", "last", "every", "stages", "sites", "x"]), inner, max_size=2)
        ),
        max_leaves=6,
    )
)
def test_any_value_gives_a_mask_or_a_clear_error(value):
    try:
        mask = Placement.parse(value).mask(NETWORK)
    except (ValueError, BnsweepError) as error:
        assert str(error)
    else:
        assert len(mask) == 6
        assert set(mask) <= {"0", "1"}


@given(st.text("01", min_size=6, max_size=6))
def test_every_mask_reads_back_as_itself(mask):
    assert Placement.parse(mask).mask(NETWORK) == mask
