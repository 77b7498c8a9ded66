from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Lambdad, LoadImaged, RandFlipd, Resized, ScaleIntensityRanged
from PIL import Image

from fairmedfm_monai.data import encoding as encoding_module
from fairmedfm_monai.data import features as features_module
from fairmedfm_monai.data.descriptions import describe_object, encoder_key
from fairmedfm_monai.data.features import FeatureDataset
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.usages.slice_pooling import SliceEncoder

Make = Callable[..., FeatureDataset]


class Encoder(torch.nn.Module):
    """A convolution whose calls are counted in a file, so that several processes can be added up."""

    def __init__(self, log: Path, *, seed: int = 0, pause: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = torch.nn.Conv2d(1, 6, 3, stride=2)
        self.dropout = torch.nn.Dropout()
        self.log = log
        self.pause = pause

    def encode_image(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        with self.log.open("ab") as file:
            file.write(b"." * len(image))
        if self.pause:
            time.sleep(self.pause)
        maps = self.dropout(self.conv(image))
        return {"features": maps.mean((2, 3)), "zero_shot": maps.amax((2, 3))[:, :4], "local": maps.flatten(2)}


def preprocessing(size: int = 16) -> Compose:
    return Compose(
        [
            LoadImaged("image", reader="fairmedfm_monai.transforms.CaseReader", ensure_channel_first=True),
            Resized("image", spatial_size=(size, size)),
            ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=0, b_max=1),
        ]
    )


def save(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)).save(path)


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, Any]]:
    (tmp_path / "images").mkdir()
    result = []
    for index in range(12):
        save(tmp_path / f"images/{index:02d}.png", index)
        case = {"image": str(tmp_path / f"images/{index:02d}.png"), "label": index % 2, "case_id": f"c{index:02d}"}
        result.append({**case, "attributes": {"sex": "female"}, "failed": ""})
    return result


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


@pytest.fixture
def make(tmp_path: Path, log: Path) -> Make:
    def build(cases: list[dict[str, Any]], **options: Any) -> FeatureDataset:
        encoder = options.pop("encoder", None) or Encoder(log)
        transform = options.pop("transform", None) or preprocessing()
        return FeatureDataset(cases, transform, encoder, cache_dir=tmp_path / "cache", batch_size=5, **options)

    return build


def count(log: Path) -> int:
    """Images encoded since the last call."""
    size = log.stat().st_size
    log.write_bytes(b"")
    return size


def test_hundred_epochs_cost_one_pass(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    dataset = make(cases)
    dataset.encode()
    for _ in range(100):
        for batch in DataLoader(dataset, batch_size=4, shuffle=True):
            assert batch["image"].shape == (4, 6)
    assert count(log) == 12


def test_cached_equals_uncached(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    dataset = make(cases)
    dataset.encode()
    encoder = Encoder(log).eval()
    images = torch.stack([torch.as_tensor(np.asarray(preprocessing()(dict(case))["image"])) for case in cases])
    with torch.no_grad():
        expected = encoder.encode_image(images)["features"]
    cached = torch.stack([item["image"] for item in dataset])
    assert cached.dtype == torch.float32
    torch.testing.assert_close(cached, expected, atol=1e-5, rtol=0)


def test_items_are_the_cases(make: Make, cases: list[dict[str, Any]]) -> None:
    dataset = make(cases)
    dataset.encode()
    assert len(dataset) == 12
    item = dataset[3]
    assert item["case_id"] == "c03"
    assert item["label"] == 1
    assert item["attributes"] == {"sex": "female"}
    assert item["failed"] == ""
    assert cases[3]["image"].endswith("03.png")
    item["image"] += 1  # a copy: the cache is not written to
    assert not torch.equal(item["image"], dataset[3]["image"])


def test_encode_again_is_free(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    make(cases).encode()
    assert count(log) == 12
    dataset = make(cases)
    dataset.encode()
    dataset.encode()
    make(cases[::-1][:5]).encode()
    assert count(log) == 0


def test_a_changed_image_encodes_itself_only(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    before = make(cases)
    before.encode()
    count(log)
    save(Path(cases[4]["image"]), 99)
    after = make(cases)
    after.encode()
    assert count(log) == 1
    assert not torch.equal(before[4]["image"], after[4]["image"])
    assert torch.equal(before[5]["image"], after[5]["image"])


def test_content_and_not_the_name_counts(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    make(cases).encode()
    moved = []
    for case in cases:
        Path(case["image"]).rename(case["image"].replace(".png", "x.png"))
        moved.append({**case, "image": case["image"].replace(".png", "x.png")})
    count(log)
    make(moved).encode()
    assert count(log) == 0


def test_weights_and_transform_are_part_of_the_key(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    make(cases).encode()
    count(log)
    make(cases, encoder=Encoder(log, seed=1)).encode()
    assert count(log) == 12
    make(cases, transform=preprocessing(15)).encode()
    assert count(log) == 12


def test_weights_count_when_encode_is_called(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    encoder = Encoder(log)
    dataset = make(cases, encoder=encoder)
    encoder.load_state_dict(Encoder(log, seed=1).state_dict())
    dataset.encode()
    other = make(cases, encoder=Encoder(log, seed=1))
    other.encode()
    assert count(log) == 12
    assert torch.equal(dataset[0]["image"], other[0]["image"])


def test_entries(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    make(cases).encode()
    zero_shot = make(cases, feature="zero_shot")
    zero_shot.encode()
    assert count(log) == 12  # vectors are cached together
    assert zero_shot[0]["image"].shape == (4,)
    local = make(cases, feature="local")
    local.encode()
    assert count(log) == 12  # a map is cached when it is asked for
    assert local[0]["image"].shape == (6, 49)
    with pytest.raises(KeyError, match="'nothing', but the encoder gives features, zero_shot, local"):
        make(cases, feature="nothing").encode()


def test_vectors_of_slices_are_cached_together(make: Make, tmp_path: Path) -> None:
    encoder = SliceEncoder(DemoCLIP(weights="tiny"))
    calls: list[int] = []
    original = encoder.encode_image

    def counted(image: torch.Tensor) -> dict[str, torch.Tensor]:
        calls.append(len(image))
        return original(image)

    encoder.encode_image = counted  # type: ignore[method-assign]
    volumes = []
    for index in range(2):
        np.save(tmp_path / f"{index}.npy", np.random.default_rng(index).random((1, 128, 128, 3), dtype=np.float32))
        volumes.append({"image": str(tmp_path / f"{index}.npy"), "case_id": f"v{index}"})
    transform = LoadImaged("image", reader="NumpyReader", ensure_channel_first=False)
    shapes = []
    for feature in ("features", "zero_shot"):
        dataset = make(volumes, encoder=encoder, transform=transform, feature=feature)
        dataset.encode()
        shapes.append(tuple(dataset[1]["image"].shape))
    assert [shape[0] for shape in shapes] == [3, 3]
    assert calls == [2]  # once for both entries


def test_amp_is_near_and_apart(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    exact, fast = make(cases), make(cases, amp=True)
    exact.encode()
    fast.encode()
    assert count(log) == 24
    assert fast[0]["image"].dtype == torch.float32
    assert not torch.equal(exact[0]["image"], fast[0]["image"])
    # bfloat16 has 8 significant bits; a sum of 9 products rounds a few times.
    torch.testing.assert_close(exact[0]["image"], fast[0]["image"], atol=0.02, rtol=0)


def test_number_of_threads_changes_nothing(make: Make, cases: list[dict[str, Any]], log: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            dataset = make(cases, encoder=Encoder(log))
            dataset.cache_dir = tmp_path / f"cache{number}"
            dataset.encode()
            assert torch.get_num_threads() == number
            found.append(torch.stack([item["image"] for item in dataset]))
    finally:
        torch.set_num_threads(threads)
    assert count(log) == 24
    assert torch.equal(*found)  # a lane of two has one thread


def test_encoder_mode_is_eval_and_restored(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    encoder = Encoder(log).train()
    dataset = make(cases, encoder=encoder)
    dataset.encode()
    assert encoder.training
    again = make(cases, encoder=Encoder(log).eval())
    again.encode()
    assert torch.equal(dataset[0]["image"], again[0]["image"])


def test_failed_cases_get_stand_ins(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    data = Path(cases[11]["image"]).read_bytes()
    Path(cases[11]["image"]).write_bytes(data[: len(data) // 2])
    Path(cases[2]["image"]).unlink()
    dataset = make(cases)
    dataset.encode()
    assert count(log) == 10
    assert dataset.failed["c02"] == "the file cannot be read"
    assert "cut off" in dataset.failed["c11"]
    assert dataset[2]["case_id"] == "c03"
    assert dataset[2]["failed"] == "c02: the file cannot be read"
    assert dataset[11]["case_id"] == "c00"
    assert len(list(dataset)) == 12
    save(Path(cases[2]["image"]), 2)
    Path(cases[11]["image"]).write_bytes(data)
    healed = make(cases)
    healed.encode()
    assert count(log) == 2
    assert healed.failed == {}


def test_output_that_is_not_finite_is_a_failure(make: Make, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 24), np.nan, np.float32)).save(tmp_path / "nan.tif")
    dataset = make([{**cases[0], "image": str(tmp_path / "nan.tif")}, cases[1]])
    dataset.encode()
    assert dataset[0]["failed"] == "c00: the encoder's output is not finite"


def test_nothing_readable_is_an_error(make: Make, cases: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError, match=r"none of 12 cases could be encoded; the first: c00: .*broken"):
        make(cases, transform=Lambdad("image", _broken)).encode()


def _broken(value: object) -> object:
    raise ValueError("broken")


def test_only_the_image_reaches_the_transform(make: Make, cases: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError, match="label"):
        make(cases, transform=LoadImaged(["image", "label"])).encode()


def test_encode_first(make: Make, cases: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError, match=r"call encode\(\)"):
        make(cases)[0]


def test_random_transforms_are_refused(make: Make, cases: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="RandFlipd"):
        make(cases, transform=Compose([preprocessing(), RandFlipd("image", prob=0.5)]))


def test_workers_decode_and_read(make: Make, cases: list[dict[str, Any]], log: Path) -> None:
    dataset = make(cases, num_workers=2)
    dataset.encode()
    assert count(log) == 12
    single = make(cases)
    single.encode()
    for one, other in zip(
        DataLoader(dataset, batch_size=6, num_workers=1), DataLoader(single, batch_size=6), strict=True
    ):
        assert torch.equal(one["image"], other["image"])


def test_a_pickle_carries_neither_encoder_nor_features(make: Make, cases: list[dict[str, Any]]) -> None:
    dataset = make(cases)
    dataset.encode()
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # our own bytes
    assert copy.encoder is None
    assert copy._array is None
    assert torch.equal(copy[5]["image"], dataset[5]["image"])
    assert isinstance(copy._array, np.memmap)
    with pytest.raises(RuntimeError, match="has no encoder"):
        copy.encode()


def test_a_killed_run_goes_on(
    make: Make, cases: list[dict[str, Any]], log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(features_module, "SHARD_SIZE", 5)
    monkeypatch.setattr(encoding_module, "MAX_LANES", 1)  # one batch after the other, to know when it is killed
    encoder = Encoder(log)
    original = encoder.encode_image

    def killed(image: torch.Tensor) -> dict[str, torch.Tensor]:
        if log.stat().st_size >= 10:
            raise KeyboardInterrupt
        return original(image)

    encoder.encode_image = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        make(cases, encoder=encoder).encode()
    assert count(log) == 10
    make(cases).encode()
    assert count(log) == 2


def test_a_damaged_shard_is_encoded_again(make: Make, cases: list[dict[str, Any]], log: Path, tmp_path: Path) -> None:
    make(cases).encode()
    count(log)
    for file in [*tmp_path.glob("cache/*/shards/*/features.npy")]:
        file.write_bytes(file.read_bytes()[:-10])
    for view in tmp_path.glob("cache/*/views/*.npy"):
        view.unlink()
    dataset = make(cases)
    dataset.encode()
    assert count(log) == 12
    assert len(list(dataset)) == 12


def _encode_elsewhere(cases: list[dict[str, Any]], log: Path, cache: Path, start: Any, output: Path) -> None:
    features_module.SHARD_SIZE = 2
    dataset = FeatureDataset(cases, preprocessing(), Encoder(log, pause=0.05), cache_dir=cache, batch_size=1)
    start.wait()
    dataset.encode()
    np.save(output, torch.stack([item["image"] for item in dataset]).numpy())


def test_two_processes_share_the_work(cases: list[dict[str, Any]], log: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    outputs = [tmp_path / f"{name}.npy" for name in "ab"]
    processes = [
        context.Process(target=_encode_elsewhere, args=(cases, log, tmp_path / "cache", start, output))
        for output in outputs
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    assert count(log) == 12  # each image was encoded once, by one of the two
    np.testing.assert_array_equal(np.load(outputs[0]), np.load(outputs[1]))


def test_descriptions_follow_the_settings() -> None:
    assert describe_object(preprocessing()) == describe_object(preprocessing())
    assert describe_object(preprocessing()) != describe_object(preprocessing(17))
    assert describe_object(partial(max, 1)) != describe_object(partial(max, 2))
    assert describe_object(lambda x: x + 1) != describe_object(lambda x: x + 2)
    assert describe_object(np.zeros(3)) != describe_object(np.ones(3))
    looped: list[object] = []
    looped.append(looped)
    assert describe_object(looped) == ["(itself)"]


def test_descriptions_do_not_follow_use(cases: list[dict[str, Any]]) -> None:
    used = preprocessing()
    before = describe_object(used)
    used(dict(cases[0]))
    assert describe_object(used) == before


def test_descriptions_hold_no_addresses(cases: list[dict[str, Any]]) -> None:
    assert " at 0x" not in str(describe_object(preprocessing()))
    assert str(os.getpid()) not in describe_object(open)


def test_encoder_key_sees_every_weight(log: Path) -> None:
    first, second = Encoder(log), Encoder(log)
    assert encoder_key(first) == encoder_key(second)
    with torch.no_grad():
        second.conv.bias[5] += 1e-7
    assert encoder_key(first) != encoder_key(second)
    assert encoder_key(Encoder(log).bfloat16()) != encoder_key(first)


def test_a_volume_among_pictures_is_a_failed_case(make: Make, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 24, 3), np.float32), np.eye(4)), tmp_path / "volume.nii.gz")
    cases[4]["image"] = str(tmp_path / "volume.nii.gz")
    load = LoadImaged("image", reader="fairmedfm_monai.transforms.CaseReader", ensure_channel_first=True)
    dataset = make(cases, transform=load, spatial_dims=2)
    dataset.encode()
    assert list(dataset.failed) == ["c04"]
    assert "3 spatial axes" in dataset.failed["c04"]
    assert dataset[4]["failed"].startswith("c04: ")
