from __future__ import annotations

import numpy as np
from skimage.measure import block_reduce

from fairmedfm_monai.data.demo.scan import Scan
from fairmedfm_monai.data.demo.slabs import LUNG_LEFT, LUNG_RIGHT, body_mask, make_slabs, reduce_in_plane, remove_nodule


def test_reduction_is_the_block_mean() -> None:
    volume = np.random.default_rng(0).integers(-1000, 1000, (10, 8, 3)).astype(np.int16)
    np.testing.assert_allclose(reduce_in_plane(volume, 2), block_reduce(volume, (2, 2, 1), np.mean), rtol=1e-6)


def test_the_slabs_hold_the_attenuation_of_the_whole_patient(phantom: Scan) -> None:
    slabs = make_slabs(phantom)
    hu = phantom.hu.astype(float)
    direct = np.where(hu < -950, 0, np.clip((hu + 1000) / 1000, 0, 2.5) * 0.02).sum(axis=1) * phantom.spacing[1]
    projected = slabs.attenuation.sum(axis=0)
    # Sums over areas of different pixel size; the phantom's own nodule (about 0.1 %) is gone from the slabs.
    area = phantom.spacing[0] * phantom.spacing[2]
    assert abs(projected.sum() * 2.0**2 / (direct.sum() * area) - 1) < 0.02


def test_slabs_of_air_are_left_out_and_depth_grows_forwards(phantom: Scan) -> None:
    slabs = make_slabs(phantom)
    assert len(slabs.depth) == len(slabs.attenuation) < 32
    assert np.all(np.diff(slabs.depth) > 0)
    assert slabs.attenuation.any(axis=(1, 2)).all()


def test_left_lung_lies_on_the_left(phantom: Scan) -> None:
    lungs = make_slabs(phantom).lungs
    middle = (lungs.shape[0] - 1) / 2
    assert np.argwhere(lungs == LUNG_LEFT)[:, 0].mean() > middle
    assert np.argwhere(lungs == LUNG_RIGHT)[:, 0].mean() < middle


def test_the_table_is_removed_and_the_lungs_are_not() -> None:
    hu = np.full((60, 60, 6), -1000, dtype=np.float32)
    hu[10:50, 15:50] = 40
    hu[18:28, 25:40] = -850
    hu[5:55, 3:6] = 200
    body = body_mask(hu)
    assert body[18:28, 25:40].all()
    assert not body[5:55, 3:6].any()


def test_the_nodule_becomes_lung() -> None:
    hu = np.random.default_rng(0).normal(-850, 20, (40, 40, 40)).astype(np.float32)
    nodule = np.zeros(hu.shape, dtype=bool)
    nodule[17:23, 17:23, 17:23] = True
    solid = np.zeros(hu.shape, dtype=bool)
    solid[24, 20, 20] = True
    hu[nodule] = 30
    hu[solid] = 500
    filled = remove_nodule(hu, nodule, ~nodule, solid=solid, spacing=(1.4, 1.4, 2.5))
    assert filled[nodule].max() < -700
    assert filled[24, 20, 20] == 500
    assert np.array_equal(filled[:8], hu[:8])
    assert remove_nodule(hu, np.zeros_like(nodule), ~nodule, solid=solid, spacing=(1, 1, 1)) is hu
