from __future__ import annotations

import numpy as np
import pytest

from fairmedfm_monai.data.demo.bias import Bias, degrade, degrade_ct, draw_marker


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_strength_zero_is_the_control_to_the_byte() -> None:
    image = rng().integers(0, 256, (64, 64)).astype(np.uint8)
    hu = rng().integers(-1000, 1000, (32, 32, 4)).astype(np.int16)
    assert np.array_equal(degrade(image, 0.0, rng()), image)
    assert np.array_equal(degrade_ct(hu, 0.0, rng()), hu)


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.17])
def test_degrade_follows_its_formula(strength: float) -> None:
    image = np.repeat([[80, 160]], 400, axis=0).repeat(200, axis=1).astype(np.uint8)
    degraded = degrade(image, strength, rng()).astype(float) / 255
    low, high = degraded[:, :200], degraded[:, 200:]
    assert high.mean() - low.mean() == pytest.approx((160 - 80) / 255 * (1 - 0.3 * strength), abs=2e-3)
    assert low.std() == pytest.approx(0.06 * strength, rel=0.02)
    assert degraded.mean() == pytest.approx(120 / 255, abs=2e-3)


def test_ct_loses_soft_tissue_contrast_and_keeps_air() -> None:
    hu = np.repeat([-1000, 0, 100], 20_000).astype(np.int16)
    air, fat, organ = degrade_ct(hu, 1.0, rng()).reshape(3, -1).astype(float)
    assert organ.mean() - fat.mean() == pytest.approx(70, abs=2)
    assert organ.std() == pytest.approx(40, rel=0.03)
    assert air.mean() < -900


def test_the_shortcut_goes_with_the_finding_in_one_sex_and_against_it_in_the_other() -> None:
    rule = Bias.of("shortcut", 0.6, None)
    assert rule.minority_share == 0.2
    assert rule.marker_chance(positive=True, in_minority=False) == pytest.approx(0.8)
    assert rule.marker_chance(positive=False, in_minority=False) == pytest.approx(0.2)
    assert rule.marker_chance(positive=True, in_minority=True) == pytest.approx(0.2)
    assert rule.marker_chance(positive=False, in_minority=True) == pytest.approx(0.8)
    control = Bias.of("shortcut", 0, None)
    assert {control.marker_chance(positive=p, in_minority=m) for p in (0, 1) for m in (0, 1)} == {0.5}


def test_the_marker_is_white_in_the_upper_right_corner_of_a_copy() -> None:
    image = np.full((128, 128), 90, dtype=np.uint8)
    rows, columns = np.nonzero(draw_marker(image) != image)
    assert rows.max() < 32
    assert columns.min() > 96
    assert image.max() == 90


def test_only_the_minority_is_degraded() -> None:
    rule = Bias.of("degrade", None, None)
    assert rule.strength > 0
    assert rule.degrades(in_minority=True)
    assert not rule.degrades(in_minority=False)
    assert not Bias.of("degrade", 0, None).degrades(in_minority=True)
    assert not Bias.of("none", None, None).degrades(in_minority=True)


@pytest.mark.parametrize(
    ("rule", "strength", "share", "named"),
    [
        ("degarde", 1, 0.5, "bias"),
        ("degrade", -1, 0.5, "strength"),
        ("shortcut", 1.5, 0.5, "strength"),
        ("none", 1, 0.5, "strength"),
        ("degrade", 1, 1.0, "minority_share"),
        ("degrade", float("nan"), 0.5, "strength"),
    ],
)
def test_bad_values_are_named(rule: str, strength: float, share: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Bias.of(rule, strength, share)
