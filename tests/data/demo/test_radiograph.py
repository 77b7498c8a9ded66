from __future__ import annotations

import numpy as np
import pytest

from fairmedfm_monai.data.demo.nodules import DENSITY, RADIUS_MM, ZONES, Nodule, NoduleSites
from fairmedfm_monai.data.demo.radiograph import Projector, pink_noise
from fairmedfm_monai.data.demo.scan import Scan
from fairmedfm_monai.data.demo.slabs import make_slabs

SEEDS = range(12)


def mean_image(projector: Projector) -> np.ndarray:
    return np.mean([projector.image(seed, seed)[0] for seed in SEEDS], axis=0)


def ball(radius: float = 12.0, **changes: float) -> Nodule:
    shape = {"stretch": np.ones(3), "lobes": np.zeros((0, 2)), "side": "left", "zone": "upper"}
    return Nodule(**{"slab": 12, "x": 60.0, "z": 40.0, "radius_mm": radius, "density": 1.5, **shape, **changes})  # type: ignore[arg-type]


def test_an_image_depends_on_its_seeds_alone(phantom: Scan, projector: Projector) -> None:
    late = [projector.image((7, 3, index), (7, 3), nodule=True)[0] for index in reversed(range(3))][::-1]
    fresh = Projector(slabs=make_slabs(phantom))
    early = [fresh.image((7, 3, index), (7, 3), nodule=True)[0] for index in range(3)]
    assert [image.tobytes() for image in early] == [image.tobytes() for image in late]


def test_images_are_eight_bit_and_use_their_range(projector: Projector) -> None:
    image, info = projector.image(0, 0)
    assert image.shape == (128, 128)
    assert image.dtype == np.uint8
    assert info is None
    assert np.ptp(image) > 200


def test_head_is_up_and_the_heart_is_on_image_right(projector: Projector) -> None:
    image = mean_image(projector)
    assert image[20:60].mean() < image[105:].mean()  # air of the lungs above, abdomen below
    middle, right = image[50:75, 30:45].mean(), image[50:75, 76:91].mean()
    assert right > middle + 20


def test_pose_and_anatomy_each_change_the_film(projector: Projector) -> None:
    film = projector.image((0, 1, 0), (0, 1))[0]
    assert not np.array_equal(film, projector.image((0, 1, 1), (0, 1))[0])
    assert not np.array_equal(film, projector.image((0, 1, 0), (0, 2))[0])


def test_a_nodule_brightens_its_own_pixels_only(projector: Projector) -> None:
    without, _ = projector.image(3, 3)
    with_nodule, info = projector.image(3, 3, ball())
    assert info is not None
    change = with_nodule.astype(float) - without
    assert change[info.mask].mean() > 5
    far = np.hypot(*np.indices(change.shape) - np.array([info.row, info.column])[:, None, None]) > 40
    assert abs(change[far].mean()) < 2


def test_the_mask_of_a_ball_has_the_size_that_geometry_says(projector: Projector) -> None:
    radii = [info.radius for seed in range(40) if (info := projector.image(seed, seed, ball())[1])]
    # 12 mm at 275 mm on 128 pixels; magnification and patient size scatter around 1.
    assert np.mean(radii) == pytest.approx(12 * 128 / 275, rel=0.06)


def test_chord_of_a_ball_is_its_chord() -> None:
    offsets = np.array([0.0, 6.0, 11.9, 12.1], dtype=np.float32)
    chord = ball().chord(60 + offsets, np.full(4, 40, dtype=np.float32))
    np.testing.assert_allclose(chord, 2 * np.sqrt(np.clip(144 - offsets.astype(float) ** 2, 0, None)), rtol=1e-5)


def test_left_is_on_image_right_and_upper_is_up(projector: Projector) -> None:
    found = [projector.image((1, n), (1, n), nodule=True)[1] for n in range(150)]
    columns = {side: [info.column for info in found if info and info.side == side] for side in ("left", "right")}
    rows = {zone: np.mean([info.row for info in found if info and info.zone == zone]) for zone in ZONES}
    assert np.mean(columns["left"]) > 74
    assert np.mean(columns["right"]) < 54
    assert rows["upper"] < rows["middle"] < rows["lower"]
    for info in found:
        assert info is not None
        assert RADIUS_MM[0] <= info.radius_mm <= RADIUS_MM[1]
        assert DENSITY[0] <= info.density <= DENSITY[1]
        assert 0 < info.row < 127
        assert 0 < info.column < 127


def test_the_nodule_belongs_to_the_patient(projector: Projector) -> None:
    first, second = (projector.image((2, 5, n), (2, 5), nodule=True)[1] for n in (0, 1))
    assert first is not None
    assert second is not None
    assert (first.radius_mm, first.density, first.side, first.zone) == (
        second.radius_mm,
        second.density,
        second.side,
        second.zone,
    )
    drawn = projector.draw_nodule((2, 5))
    assert drawn.radius_mm == first.radius_mm


def test_a_nodule_outside_the_film_is_refused(projector: Projector) -> None:
    with pytest.raises(ValueError, match="outside the image"):
        projector.image(0, 0, ball(x=400.0))


def test_a_scan_without_lungs_is_refused(phantom: Scan) -> None:
    slabs = make_slabs(phantom)
    slabs.lungs[:] = 0
    with pytest.raises(ValueError, match="lung"):
        NoduleSites(slabs)


def test_either_a_scan_or_slabs() -> None:
    with pytest.raises(ValueError, match="either"):
        Projector()


def test_pink_noise_falls_with_the_third_power_of_frequency() -> None:
    rng = np.random.default_rng(0)
    power = np.mean([np.abs(np.fft.rfft2(pink_noise(128, rng))) ** 2 for _ in range(20)], axis=0)
    low, high = power[0, 4:8].mean(), power[0, 32:64].mean()
    expected = np.mean(np.arange(4.0, 8) ** -3) / np.mean(np.arange(32.0, 64) ** -3)
    assert low / high == pytest.approx(expected, rel=0.25)
    assert pink_noise(64, rng).std() == pytest.approx(1)
