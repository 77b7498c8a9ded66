from __future__ import annotations

import nibabel as nib
import numpy as np

from fairmedfm_monai.data.demo.phantom import EXTENT_MM, make_phantom
from fairmedfm_monai.data.demo.scan import ORGAN_GROUPS, Scan


def test_the_phantom_has_the_layout_of_the_scan(phantom: Scan) -> None:
    assert nib.aff2axcodes(phantom.affine) == ("L", "A", "S")
    np.testing.assert_allclose(np.array(phantom.spacing) * phantom.hu.shape, EXTENT_MM)
    assert phantom.hu.dtype == np.int16
    assert set(np.unique(phantom.large_organs())) == set(range(len(ORGAN_GROUPS) + 1))
    assert phantom.n_readers == 4
    assert not phantom.is_real


def test_the_same_bytes_each_time(phantom: Scan) -> None:
    again = make_phantom(phantom.hu.shape)
    assert again.hu.tobytes() == phantom.hu.tobytes()
    assert again.reader_bits.tobytes() == phantom.reader_bits.tobytes()


def test_anatomy_is_where_it_belongs(phantom: Scan) -> None:
    middle = [np.argwhere(phantom.organ(*structures)).mean(axis=0) for structures in ORGAN_GROUPS.values()]
    place = dict(zip(ORGAN_GROUPS, middle, strict=True))
    centre = (phantom.hu.shape[0] - 1) / 2
    assert place["heart"][0] > centre > place["liver"][0]
    assert place["kidney_left"][0] > centre > place["kidney_right"][0]
    assert place["lung_left"][2] > place["spleen"][2]
    assert np.median(phantom.hu[phantom.organ(*ORGAN_GROUPS["lung_left"])]) < -700


def test_the_readers_differ_a_little_about_a_nodule_in_the_left_lung(phantom: Scan) -> None:
    pairs = phantom.reader_dice()[np.triu_indices(4, k=1)]
    assert 0.7 < pairs.min() < pairs.max() < 1
    lung = phantom.organ(*ORGAN_GROUPS["lung_left"])
    assert (lung & phantom.nodule).sum() > 0.95 * phantom.nodule.sum()
