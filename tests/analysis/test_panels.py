"""Charts that only the service shows."""

from bnsweep.analysis import panels

ANSWER = [
    {"placement": placement, "targets": targets, "level": "seeds", "eta": eta, "accuracy_pct": 90 - 100 * eta}
    for placement in ("all", "none")
    for targets in ("weights", "all")
    for eta in (0.0, 0.1, 0.2)
]


def test_rows_that_words_tell_apart_are_joined_in_panels_of_their_own():
    (figure,) = panels.of_result(ANSWER, x="eta", y="accuracy_pct", colour="placement")
    assert (figure.panels, [row["panel"] for row in figure.rows]) == (2, [row["targets"] for row in ANSWER])
    spec = figure.specification(validate=True)
    assert spec["spec"]["mark"] == {"type": "line", "point": True}
    (figure,) = panels.of_result(ANSWER, x="eta", y="accuracy_pct", colour="targets")
    assert {row["panel"] for row in figure.rows} == {"all", "none"}


def test_rows_that_nothing_tells_apart_are_points():
    twice = [row for row in ANSWER if row["targets"] == "all" for _ in range(2)]
    (figure,) = panels.of_result(twice, x="eta", y="accuracy_pct", colour="placement")
    assert figure.panels == 1
    assert figure.specification(validate=True)["mark"]["type"] == "point"
