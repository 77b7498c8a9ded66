"""Groups, intersections and patients."""

from __future__ import annotations

import numpy as np
import pytest

from fairmedfm_monai.fairness.groups import compact, encode_patients, make_groupings


def test_declared_groups_keep_order_and_empty_ones():
    (sex,) = make_groupings({"sex": ["m", "f", None, "unknown", ""]}, n=5, groups={"sex": ["f", "m", "other"]})
    assert sex.groups == ("f", "m", "other")
    assert sex.codes.tolist() == [1, 0, -1, -1, -1]


def test_undeclared_groups_are_sorted_and_nan_is_unknown():
    (age,) = make_groupings({"age": np.array(["old", "young", np.nan], dtype=object)}, n=3)
    assert age.groups == ("old", "young")
    assert age.codes.tolist() == [0, 1, -1]


def test_intersections_cross_all_groups_and_keep_the_unknown_out():
    columns = {"sex": ["f", "m", "f", None], "age": ["lt60", "ge60", "unknown", "lt60"]}
    groups = {"sex": ["f", "m"], "age": ["lt60", "ge60"]}
    crossed = make_groupings(columns, n=4, groups=groups, intersections=[["sex", "age"]])[-1]
    assert crossed.name == "sex__age"
    assert crossed.groups == ("f__lt60", "f__ge60", "m__lt60", "m__ge60")
    assert crossed.codes.tolist() == [0, 3, -1, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attributes": {"sex": ["f", "x"]}, "groups": {"sex": ["f", "m"]}}, r"\['x'\] not among the declared groups"),
        ({"attributes": {"sex": ["f"]}}, "expected 2 values"),
        ({"attributes": {"sex": ["f", "m"]}, "groups": {"age": ["old"]}}, r"no column for the declared .*'age'"),
        ({"attributes": {"overall": ["f", "m"]}}, "reserved"),
        ({"attributes": {"sex": ["f", "m"]}, "intersections": [["sex", "age"]]}, "'age' is not an attribute"),
        ({"attributes": {"sex": ["f", "m"]}, "intersections": [["sex"]]}, "at least two"),
    ],
)
def test_bad_groups_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_groupings(n=2, **arguments)


def test_patients_without_an_id_stand_alone():
    codes, given = encode_patients(["a", None, "a", "b", None], 5)
    assert given
    assert codes[0] == codes[2]
    assert len(set(codes.tolist())) == 4
    assert encode_patients(None, 3)[1] is False
    with pytest.raises(ValueError, match="expected 4 values"):
        encode_patients(["a"], 4)


def test_compact_codes_keep_order_and_identity():
    codes = np.array([7, 2, 7, 9])
    found, count = compact(codes)
    assert (found.tolist(), count) == ([1, 0, 1, 2], 3)
    assert compact(np.empty(0, dtype=np.int64))[1] == 0
