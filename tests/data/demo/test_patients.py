from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest
from scipy import stats

from fairmedfm_monai.data.demo.patients import RACE_SHARES, RACES, Patient, draw_patients

SIZES = {"train": 90, "val": 60, "test": 120}


def image_counts(patients: list[Patient]) -> Counter[tuple[str, str, bool]]:
    counts: Counter[tuple[str, str, bool]] = Counter()
    for patient in patients:
        counts[patient.split, patient.sex, patient.positive] += patient.n_images
    return counts


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    patients = [patient for seed in range(12) for patient in draw_patients(seed, sizes=SIZES)]
    return pd.DataFrame([vars(patient) for patient in patients])


def test_every_cell_is_filled_exactly() -> None:
    counts = image_counts(draw_patients(3, sizes=SIZES))
    assert counts["test", "female", True] == counts["test", "male", True] == 20
    assert counts["test", "female", False] == counts["test", "male", False] == 40
    assert counts["train", "female", True] == 15
    assert sum(counts.values()) == sum(SIZES.values())


def test_the_default_test_split_has_200_positives_and_400_negatives_per_sex() -> None:
    counts = image_counts(draw_patients(0, sizes={"test": 1200}))
    assert set(counts.values()) == {200, 400}


def test_under_representation_spares_the_test_split() -> None:
    counts = image_counts(draw_patients(0, sizes=SIZES, minority_share=0.2))
    assert counts["train", "female", True] + counts["train", "female", False] == 18
    assert counts["val", "female", True] + counts["val", "female", False] == 12
    assert counts["test", "female", True] == counts["test", "male", True] == 20


def test_some_patients_have_several_images_and_ids_are_unique() -> None:
    patients = draw_patients(0, sizes=SIZES)
    assert {1, 2} <= {patient.n_images for patient in patients}
    cases = [case for patient in patients for case, _ in patient.images()]
    assert len(set(cases)) == len(cases) == sum(SIZES.values())
    assert len({patient.patient_id for patient in patients}) == len(patients)


@pytest.mark.parametrize("other", ["sex", "positive", "split", "n_images", "race"])
def test_race_and_age_are_independent_of_everything(many: pd.DataFrame, other: str) -> None:
    old = many["age"] >= 60
    assert stats.chi2_contingency(pd.crosstab(old, many[other])).pvalue > 1e-3
    if other != "race":
        assert stats.chi2_contingency(pd.crosstab(many["race"], many[other])).pvalue > 1e-3


def test_race_follows_its_shares(many: pd.DataFrame) -> None:
    observed = many["race"].value_counts().reindex(RACES).to_numpy()
    expected = observed.sum() * pd.Series(RACE_SHARES).to_numpy()
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_age_and_race_do_not_know_the_bias_rule() -> None:
    plain, shifted = draw_patients(5, sizes=SIZES), draw_patients(5, sizes=SIZES, minority_share=0.1, prevalence=0.5)
    for one, other in zip(plain, shifted, strict=False):
        assert (one.age, one.race) == (other.age, other.race)


def test_equal_seeds_agree_and_different_seeds_differ() -> None:
    assert draw_patients(1, sizes=SIZES) == draw_patients(1, sizes=SIZES)
    assert draw_patients(1, sizes=SIZES) != draw_patients(2, sizes=SIZES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"minority_share": 0.0},
        {"minority_share": 1.0},
        {"prevalence": 1.5},
        {"sizes": {"tets": 4}},
        {"sizes": {"test": -1}},
    ],
)
def test_bad_values_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        draw_patients(0, **{"sizes": SIZES, **wrong})
