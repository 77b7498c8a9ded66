from __future__ import annotations

import math

import pytest

from fairmedfm_monai.fairness.registry import METRICS
from fairmedfm_monai.reporting import wording


@pytest.mark.parametrize(
    ("slug", "text"),
    [("ge60", "≥ 60"), ("female__lt60", "female · < 60"), ("left_kidney", "left kidney"), ("18to40", "18 to 40")],
)
def test_slugs_become_words(slug, text):
    assert wording.readable(slug) == text


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_has_its_own_title_and_the_registrys_direction(name):
    shown = wording.metric(name)
    assert shown.meaning
    assert shown.higher_is_better == METRICS[name].higher_is_better
    assert [other for other in METRICS if wording.metric(other).title == shown.title] == [name]


def test_numbers():
    assert wording.number(0.12345, "auc") == "0.123"
    assert wording.number(12.34, "hd95") == "12.3 mm"
    assert wording.number(math.nan, "auc") == "–"
    assert wording.number(-0.5, "auc") == "−0.500"
    assert wording.interval(0.1, math.nan) == ""
    assert wording.p_value(0.0001) == "p < 0.001"
    assert wording.p_value(0.04) == "p = 0.040"
