"""One value per patient out of several records."""

from __future__ import annotations

import pandas as pd

from fairmedfm_monai.data.prepare.agreement import CONFLICT, agreed_values

ENTRY = {"column": "c", "groups": {"white": ["W", "W2"], "black": ["B"]}, "missing": ["?", "-"]}


def test_values_of_one_group_agree_and_unknown_ones_say_nothing() -> None:
    records = [
        ("a", "W2"),
        ("a", "W"),
        ("b", "W"),
        ("b", "B"),
        ("c", "?"),
        ("c", "B"),
        ("d", "?"),
        ("d", "-"),
        ("e", ""),
    ]
    keys, values = (pd.Series(column) for column in zip(*records, strict=True))
    found, problems = agreed_values(keys, values, name="race", entry=ENTRY)
    assert found.to_dict() == {"a": "W", "b": CONFLICT, "c": "B", "d": "-", "e": ""}
    assert problems == []
    other, _ = agreed_values(keys[::-1], values[::-1], name="race", entry=ENTRY)
    assert other.to_dict() == found.to_dict()


def test_unmapped_values_are_a_problem_even_beside_a_conflict() -> None:
    keys, values = pd.Series(["a", "a", "a"]), pd.Series(["W", "B", "green"])
    _, problems = agreed_values(keys, values, name="race", entry=ENTRY)
    assert [problem.message for problem in problems] == ["attribute 'race': the card maps no group to 'green' (1)"]


def test_no_record_at_all() -> None:
    found, problems = agreed_values(pd.Series([], dtype=object), pd.Series([], dtype=object), name="race", entry=ENTRY)
    assert found.empty
    assert problems == []
