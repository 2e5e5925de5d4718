"""Ratings: files that are read or refused in a line, and agreement against published and brute-force values."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import cohen_kappa_score
from statistical_checks import repeatable

from analysis.agreement import agreement, fleiss_kappa, majority, terminal
from analysis.ratings import KEY_SCHEMA, RATINGS, RATINGS_SCHEMA, Ratings, read_key, read_ratings
from hf_tti.errors import UserError

MONO, POLY, UNCLEAR = RATINGS
PAGE = "ab" * 32
FLEISS_1971 = np.array(  # 30 patients, 6 raters, 5 diagnoses: table 1 of the paper
    [
        *([0, 0, 0, 6, 0], [0, 3, 0, 0, 3], [0, 1, 4, 0, 1], [0, 0, 0, 0, 6], [0, 3, 0, 3, 0], [2, 0, 4, 0, 0]),
        *([0, 0, 4, 0, 2], [2, 0, 3, 1, 0], [2, 0, 0, 4, 0], [0, 0, 0, 0, 6], [1, 0, 0, 5, 0], [1, 1, 0, 4, 0]),
        *([0, 3, 3, 0, 0], [1, 0, 0, 5, 0], [0, 2, 0, 3, 1], [0, 0, 5, 0, 1], [3, 0, 0, 1, 2], [5, 1, 0, 0, 0]),
        *([0, 2, 0, 4, 0], [1, 0, 2, 0, 3], [0, 0, 0, 0, 6], [0, 1, 0, 5, 0], [0, 2, 0, 1, 3], [2, 0, 0, 4, 0]),
        *([1, 0, 0, 4, 1], [0, 5, 0, 1, 0], [4, 0, 0, 0, 2], [0, 2, 0, 4, 0], [1, 0, 5, 0, 0], [0, 0, 0, 0, 6]),
    ]
)


@pytest.fixture
def write(tmp_path):
    def write(rater, ratings, /, *, name=None, **changes):
        items = [{"id": unit, "rating": rating} for unit, rating in ratings.items()]
        content = {"schema": RATINGS_SCHEMA, "version": 1, "page_sha256": PAGE, "rater": rater, "ratings": items}
        path = tmp_path / f"{name or rater}.json"
        path.write_text(json.dumps({**content, **changes}))
        return path

    return write


@pytest.fixture
def key(tmp_path):
    """Items 1 to 10 are of `a`, 11 to 20 of `b`."""
    items = {str(i): {"run": f"{m}-seed1", "method": m, "layer": 0, "unit": i} for m, i in methods_of_units()}
    content = {"schema": KEY_SCHEMA, "version": 1, "page_sha256": PAGE, "seed": 0, "items": items}
    (tmp_path / "key.json").write_text(json.dumps(content))
    return read_key(tmp_path / "key.json")


def methods_of_units():
    return [("a" if i <= 10 else "b", i) for i in range(1, 21)]


def given_to(units, rating):
    return {str(unit): rating for unit in units}


# ---- rates -------------------------------------------------------------------------------------


def test_the_rate_is_of_the_judged_and_its_interval_wilsons(write, key):
    ratings = given_to(range(1, 8), MONO) | given_to([8], POLY) | given_to([9, 10], UNCLEAR) | given_to([11], POLY)
    a, b = agreement([read_ratings(write("ada", ratings))], key).methods
    assert (a.method, a.num_units, a.num_judged, a.rate, a.unclear) == ("a", 10, 8, 7 / 8, 0.2)
    z, p, n = 1.959963984540054, 7 / 8, 8
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    np.testing.assert_allclose(a.interval[:2], expected, rtol=1e-9)
    assert (b.rate, b.num_units) == (0, 1) and b.interval.high < 1


def test_a_method_whose_units_are_all_unclear_has_no_rate(write, key):
    (only,) = agreement([read_ratings(write("ada", given_to([1, 2], UNCLEAR)))], key).methods
    assert (only.rate, only.interval, only.unclear) == (None, None, 1.0)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([MONO], MONO),
        ([MONO, POLY], UNCLEAR),
        ([POLY, MONO, MONO], MONO),
        ([MONO, POLY, UNCLEAR], UNCLEAR),
        ([MONO, MONO, POLY, POLY, UNCLEAR], UNCLEAR),
    ],
)
def test_a_units_rating_is_that_of_most_raters(votes, expected):
    assert majority(votes) == expected


def test_units_that_split_the_raters_are_counted_in_a_note(write):
    files = [write("ada", {"1": MONO, "2": MONO, "3": UNCLEAR}), write("bob", {"1": POLY, "2": MONO, "3": MONO})]
    result = agreement([read_ratings(path) for path in files])
    assert result.methods[0].unclear == 2 / 3
    assert "units counted as unclear because their raters are split between the other two: 1" in result.notes


def test_without_a_key_all_units_are_one_group(write):
    result = agreement([read_ratings(write("ada", given_to([1, 2], MONO) | given_to([3], POLY)))])
    assert [(rate.method, rate.rate) for rate in result.methods] == [("all", 2 / 3)]
    assert any("--key" in note for note in result.notes)


# ---- kappa -------------------------------------------------------------------------------------


def test_fleiss_kappa_is_that_of_the_paper():
    assert fleiss_kappa(FLEISS_1971) == pytest.approx(0.430, abs=5e-4)


def test_fleiss_kappa_by_hand():
    # three raters, P = (1 + 1/3 + 1)/3 = 7/9; p = (5/9, 4/9), Pe = 41/81
    assert fleiss_kappa([[3, 0], [2, 1], [0, 3]]) == pytest.approx((7 / 9 - 41 / 81) / (1 - 41 / 81))
    assert fleiss_kappa([[2, 0], [0, 2]]) == 1
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))


@pytest.mark.parametrize("counts", [[], [[1, 0]], [[2, 0], [2, 1]]])
def test_fleiss_kappa_wants_as_many_raters_of_each_unit(counts):
    with pytest.raises(UserError, match="Fleiss' kappa"):
        fleiss_kappa(counts)


@repeatable
@given(hnp.arrays(int, st.tuples(st.integers(3, 12), st.integers(2, 4)), elements=st.integers(0, 2)))
def test_kappa_and_its_interval_are_those_of_brute_force(codes):
    def kappa(table):
        if (table == table[0, 0]).all():
            return None
        if table.shape[1] == 2:
            return cohen_kappa_score(table[:, 0], table[:, 1])
        return fleiss_kappa([np.bincount(row, minlength=3) for row in table])

    raters = [
        Ratings(
            path=Path(f"{column}.json"),
            rater=str(column),
            page_sha256=PAGE,
            of_unit={str(unit): RATINGS[code] for unit, code in enumerate(codes[:, column])},
        )
        for column in range(codes.shape[1])
    ]
    result = agreement(raters)
    value, n = kappa(codes), len(codes)
    if value is None:
        assert result.kappa is None
        return
    assert result.kappa.value == pytest.approx(value, abs=1e-12)
    left_out = [kappa(np.delete(codes, unit, axis=0)) for unit in range(n)]
    if None in left_out:
        assert result.kappa.interval is None
    else:
        error = math.sqrt((n - 1) / n * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
        assert result.kappa.standard_error == pytest.approx(error, abs=1e-12)


def test_raw_agreement_is_over_pairs_of_raters(write):
    files = [write("a", {"1": MONO, "2": MONO}), write("b", {"1": MONO, "2": POLY}), write("c", {"1": POLY, "3": MONO})]
    result = agreement([read_ratings(path) for path in files])
    assert result.raw == pytest.approx((1 / 3 + 0) / 2)
    assert (result.num_common, result.statistic) == (1, "Fleiss' kappa")


def test_two_raters_have_cohens_kappa_over_the_units_that_both_rated(write):
    first = given_to(range(1, 11), MONO) | given_to(range(11, 21), POLY)
    second = given_to(range(1, 9), MONO) | given_to(range(9, 19), POLY) | given_to([99], UNCLEAR)
    result = agreement([read_ratings(write("ada", first)), read_ratings(write("bob", second))])
    common = [str(unit) for unit in range(1, 19)]
    expected = cohen_kappa_score([first[unit] for unit in common], [second[unit] for unit in common])
    assert result.statistic == "Cohen's kappa" and result.num_common == 18
    assert result.kappa.value == pytest.approx(expected)


def test_raters_who_always_say_the_same_leave_kappa_undefined(write):
    files = [write(name, given_to([1, 2, 3], MONO)) for name in ("ada", "bob")]
    result = agreement([read_ratings(path) for path in files])
    assert result.kappa is None and result.raw == 1
    assert any("not defined" in note for note in result.notes)


def test_one_rater_and_raters_without_a_common_unit_have_no_kappa(write):
    alone = agreement([read_ratings(write("ada", {"1": MONO}))])
    assert alone.kappa is None and alone.raw is None and any("one rater" in note for note in alone.notes)
    apart = agreement([read_ratings(write("ada", {"1": MONO})), read_ratings(write("bob", {"2": MONO}))])
    assert apart.kappa is None and any("no unit was rated by all" in note for note in apart.notes)


def test_the_result_as_text(write, key):
    first = given_to(range(1, 9), MONO) | given_to(range(11, 19), POLY)
    second = first | given_to([1, 11], UNCLEAR)
    text = terminal(agreement([read_ratings(write("ada", first)), read_ratings(write("bob", second))], key))
    lines = text.splitlines()
    assert lines[2].split()[:2] == ["a", "1.000"]
    assert "raters: ada (16), bob (16)" in text and "raw agreement: 0.875" in text
    assert "Cohen's kappa: 0.7" in text and "4 of 20 units have no rating" in text


# ---- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "other"}, "not an export of a rating page"),
        ({"version": 2}, "version 2; this hf_tti reads 1"),
        ({"rater": " "}, "the rater's name is missing"),
        ({"ratings": {}}, "a list is wanted"),
        ({"ratings": [{"id": "1", "rating": "monosemantik"}]}, "did you mean 'monosemantic'"),
        ({"ratings": ["1"]}, "None is no rating"),
        ({"ratings": [{"id": "1", "rating": MONO}] * 2}, "item 1 is rated twice"),
    ],
)
def test_a_bad_export_is_refused_in_a_line(write, changes, said):
    with pytest.raises(UserError, match=said) as error:
        read_ratings(write("ada", {}, **changes))
    assert "\n" not in str(error.value) and "ada.json" in str(error.value)


def test_what_is_no_export_at_all_is_refused_in_a_line(tmp_path):
    for name, content in (("text", b"hello"), ("list", b"[]"), ("binary", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not an export"):
            read_ratings(tmp_path / name)
    with pytest.raises(UserError, match="missing: cannot be read: no such file"):
        read_ratings(tmp_path / "missing")


def test_an_export_is_no_key_and_a_key_no_export(write, key):
    with pytest.raises(UserError, match="not the key"):
        read_key(write("ada", {"1": MONO}))
    with pytest.raises(UserError, match="not an export"):
        read_ratings(key.path)


def test_ratings_of_another_page_are_refused(write, key):
    ada, other = (
        read_ratings(path) for path in (write("ada", {"1": MONO}), write("bob", {"1": MONO}, page_sha256="c"))
    )
    with pytest.raises(UserError, match="of another rating page"):
        agreement([ada, other])
    with pytest.raises(UserError, match=r"bob.json: of another rating page \(c\) than .*key.json"):
        agreement([other], key)


def test_a_rater_counts_once(write):
    files = [write("ada", {"1": MONO}), write("ada", {"1": POLY}, name="second")]
    with pytest.raises(UserError, match="second.json: rater 'ada' is also that of .*ada.json"):
        agreement([read_ratings(path) for path in files])


def test_an_item_that_the_key_does_not_have_is_refused(write, key):
    with pytest.raises(UserError, match="item '77' is not in"):
        agreement([read_ratings(write("ada", {"77": MONO}))], key)


def test_files_without_ratings_are_refused(write):
    with pytest.raises(UserError, match="no unit was rated"):
        agreement([read_ratings(write("ada", {}))])
