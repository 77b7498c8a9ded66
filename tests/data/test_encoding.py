from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fairmedfm_monai.data.encoding import Images, Shards, fill, in_lanes
from fairmedfm_monai.data.feature_store import FeatureStore, joint_key

CPU = torch.device("cpu")
PATIENCE = 60  # seconds, of a test that fails


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store", "features")


def decode(item: dict[str, int]) -> dict[str, torch.Tensor]:
    if item["image"] == 5:
        msg = "torn"
        raise ValueError(msg)
    return {"image": torch.full((1, 2), float(item["image"]))}


def encode(images: torch.Tensor) -> dict[str, np.ndarray]:
    return {"features": images[:, 0].numpy() * 10}


def names(count: int) -> list[str]:
    return [f"key{index}" for index in range(count)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_image_reaches_the_store(store: FeatureStore, num_workers: int) -> None:
    keys = names(23)
    shards = Shards(store, keys, size=4, batch_size=2)
    reasons = fill(shards, Images(range(23), decode), encode, device=CPU, num_workers=num_workers)
    assert reasons.keys() == {"key5"}
    assert "torn" in reasons["key5"]
    kept = [index for index in range(23) if index != 5]
    view = np.load(store.build_view([keys[index] for index in kept]))
    np.testing.assert_array_equal(view[:, 0], np.array(kept, np.float32) * 10)


def test_shards_hold_whole_batches(store: FeatureStore) -> None:
    sizes = []

    def watch(images: torch.Tensor) -> dict[str, np.ndarray]:
        sizes.append(len(images))
        return encode(images)

    shards = Shards(store, names(20), size=4, batch_size=3)
    fill(shards, Images([0] * 20, decode), watch, device=CPU, num_workers=0)
    assert sorted(sizes) == [2, 3, 3, 3, 3, 3, 3]


@pytest.mark.usefixtures("two_threads")
def test_decoding_goes_on_while_encoding(store: FeatureStore) -> None:
    second_decoded = threading.Event()

    def slow_decode(item: dict[str, int]) -> dict[str, torch.Tensor]:
        if item["image"] == 1:
            second_decoded.set()
        return decode(item)

    def waiting_encode(images: torch.Tensor) -> dict[str, np.ndarray]:
        if images[0, 0, 0] == 0:
            assert second_decoded.wait(PATIENCE), "the second image was not decoded while the first was encoded"
        return encode(images)

    shards = Shards(store, names(2), size=1, batch_size=1)  # not even a new shard holds it up
    fill(shards, Images(range(2), slow_decode), waiting_encode, device=CPU, num_workers=0)
    assert "key1" in store


@pytest.mark.usefixtures("two_threads")
def test_few_batches_are_in_memory_at_once() -> None:
    taken, finished, most = 0, 0, 0

    def batches() -> Iterator[list[int]]:
        nonlocal taken, most
        for index in range(50):
            taken += 1
            most = max(most, taken - finished)
            yield [index]

    seen = []
    for result in in_lanes(batches(), lambda batch: {batch[0]: "x"}, lanes=2):
        finished += 1
        seen += list(result)
    assert seen == list(range(50))  # in order
    assert most <= 5  # two per lane, and the one that is handed on


@pytest.mark.usefixtures("two_threads")
def test_an_error_frees_threads_and_locks(store: FeatureStore) -> None:
    def broken(images: torch.Tensor) -> dict[str, np.ndarray]:
        raise KeyError("no such entry")

    shards = Shards(store, names(8), size=2, batch_size=2)
    with pytest.raises(KeyError, match="no such entry"):
        fill(shards, Images(range(8), decode), broken, device=CPU, num_workers=0)
    assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]
    again = Shards(store, names(8), size=2, batch_size=2)
    fill(again, Images(range(8), decode), encode, device=CPU, num_workers=0)  # would wait for ever on a lock
    assert "key7" in store


def test_a_shard_in_other_hands_comes_last(store: FeatureStore) -> None:
    order = []
    keys = names(6)
    shards = Shards(store, keys, size=2, batch_size=2)
    other = FeatureStore(store.folder, "features")
    with other.lock(joint_key(keys[:2]), wait=True):
        for batch in shards:
            order += batch
            shards.done({index: {"features": np.zeros(1, np.float32)} for index in batch})
        assert order == [2, 3, 4, 5]
        assert shards.left == [0]
    fill(shards, Images(range(6), decode), encode, device=CPU, num_workers=0)
    assert shards.left == []
    assert keys[0] in store
