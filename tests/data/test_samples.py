from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, PadListDataCollate
from torch import nn

from fairmedfm_monai.data import EmbeddedSamples, SampleDataset, SliceCutter

LABELS = {"liver": 3, "spleen": 7}


def write_case(folder: Path, name: str, *, slices: int = 4, seed: int = 0, labelled: bool = True) -> dict[str, Any]:
    """A volume whose labels lie in its first slices but one."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, size=(12, 10, slices)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    if labelled:
        mask[2:6, 2:6, : slices - 1], mask[7:10, 7:9, 0] = 3, 7
    case = {"case_id": name, "image": str(folder / f"{name}.nii"), "label": str(folder / f"{name}_mask.nii")}
    for key, array in (("image", image), ("label", mask)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), case[key])
    return case


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, Any]]:
    return [write_case(tmp_path, f"case{number}", slices=4 + number, seed=number) for number in range(3)]


def loading() -> Compose:
    return Compose([LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"])])


def dataset(cases: list[dict[str, Any]], folder: Path, **options: Any) -> SampleDataset:
    return SampleDataset(cases, loading(), SliceCutter(min_pixels=2), labels=LABELS, cache_dir=folder, **options)


class TestSamples:
    def test_items_are_the_slices_of_the_file_with_labels_in_their_order(
        self, cases: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        found = dataset(cases, tmp_path / "cache")
        found.prepare()
        assert (len(found), found.counts) == (3, [3, 4, 5])
        item = found[1]
        image, mask = (np.asarray(nibabel.load(cases[1][key]).dataobj) for key in ("image", "label"))
        np.testing.assert_array_equal(item["image"][0].numpy(), image[:, :, item["sample"]].T)
        expected = np.select([mask == 3, mask == 7], [1, 2])[:, :, item["sample"]].T
        np.testing.assert_array_equal(item["label"][0].numpy(), expected)
        assert (item["case_id"], item["epoch"]) == ("case1", 1)

    def test_epochs_go_through_all_samples_of_a_case_before_any_comes_again(
        self, cases: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        found = dataset(cases, tmp_path / "cache", samples_per_case=2)
        found.prepare()
        seen = []
        for epoch in (1, 2, 3, 4):
            found.start_epoch(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
            seen += [found[place]["sample"] for place in (2, 3)]  # the two places of the second case
        assert sorted(seen[:4]) == [0, 1, 2, 3] == sorted(seen[4:])

    def test_each_place_tells_its_case_and_its_attributes(self, cases: list[dict[str, Any]], tmp_path: Path) -> None:
        for case, sex in zip(cases, ("female", "male", "unknown"), strict=True):
            case["attributes"] = {"sex": sex}
        found = dataset(cases, tmp_path / "cache", samples_per_case=2)
        found.prepare()
        assert [case["case_id"] for case in found.item_cases] == [found[place]["case_id"] for place in range(6)]
        batch = next(iter(DataLoader(found, batch_size=6, collate_fn=PadListDataCollate())))
        assert batch["attributes"] == {"sex": ["female"] * 2 + ["male"] * 2 + ["unknown"] * 2}

    def test_workers_see_the_epoch_and_change_nothing(self, cases: list[dict[str, Any]], tmp_path: Path) -> None:
        found = dataset(
            cases, tmp_path / "cache", transform=lambda item: {key: item[key] for key in ("sample", "epoch")}
        )
        found.prepare()
        found.start_epoch(SimpleNamespace(state=SimpleNamespace(epoch=5)))
        plain, parallel = (list(DataLoader(found, batch_size=3, num_workers=workers)) for workers in (0, 1))
        assert plain[0]["epoch"].tolist() == parallel[0]["epoch"].tolist() == [5, 5, 5]
        assert plain[0]["sample"].tolist() == parallel[0]["sample"].tolist()

    def test_a_case_is_read_once_and_again_when_its_content_changes(
        self, cases: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        def read() -> int:
            calls = []
            found = dataset(cases, tmp_path / "cache")
            own = found.loading
            found._write = lambda index, write=found._write: (calls.append(index), write(index))[1]  # type: ignore[method-assign]
            found.prepare()
            assert own is found.loading
            return len(calls)

        assert read() == 3
        assert read() == 0
        Path(cases[0]["image"]).rename(tmp_path / "moved.nii")
        cases[0]["image"] = str(tmp_path / "moved.nii")
        assert read() == 0
        write_case(tmp_path, "case1", slices=5, seed=99)
        assert read() == 1

    def test_a_case_without_samples_is_named_and_replaced(
        self, cases: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cases[0] = write_case(tmp_path, "empty", labelled=False)
        Path(cases[1]["image"]).write_bytes(b"broken")
        found = dataset(cases, tmp_path / "cache")
        found.prepare()
        assert [item["case_id"] for item in found] == ["case2"] * 3
        assert [item["failed"].partition(":")[0] for item in found] == ["empty", "case1", ""]
        assert set(found.failed) == {"empty", "case1"}
        assert "no label in it is large enough" in caplog.text

    def test_nothing_to_train_on(self, tmp_path: Path) -> None:
        found = dataset([write_case(tmp_path, "empty", labelled=False)], tmp_path / "cache")
        with pytest.raises(RuntimeError, match="none of 1 cases has a sample to train on; the first: empty"):
            found.prepare()

    def test_items_before_preparing(self, cases: list[dict[str, Any]], tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"call prepare\(\) before"):
            dataset(cases, tmp_path / "cache")[0]


class Embedder(nn.Module):
    """Counts what it encodes; the embedding is the mean of each channel, times a weight."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.encoder.weight, weight)
        self.decoder = nn.Linear(1, 1)
        self.calls = 0

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        self.calls += len(image)
        return image.mean((2, 3)) * self.encoder.weight[0], (5, 6)


def embedded(cases: list[dict[str, Any]], folder: Path, embedder: Embedder) -> EmbeddedSamples:
    return EmbeddedSamples(
        cases, loading(), SliceCutter(min_pixels=2), labels=LABELS, cache_dir=folder, embedder=embedder
    )


class TestEmbeddings:
    def test_every_sample_is_encoded_once_whoever_asks(self, cases: list[dict[str, Any]], tmp_path: Path) -> None:
        first = Embedder()
        found = embedded(cases, tmp_path / "cache", first)
        found.encode()
        assert first.calls == sum(found.counts) == 12
        item = found[0]
        image, _ = found.read(0, item["sample"])
        torch.testing.assert_close(item["image"], image.mean((1, 2)))
        assert (item["size"].tolist(), item["input_size"].tolist()) == ([10, 12], [5, 6])
        found.encode()
        again = Embedder()
        embedded(cases, tmp_path / "cache", again).encode()
        assert (first.calls, again.calls) == (12, 0)

    def test_what_has_changed_is_encoded_again(self, cases: list[dict[str, Any]], tmp_path: Path) -> None:
        embedded(cases, tmp_path / "cache", Embedder()).encode()
        other = Embedder(weight=2.0)
        embedded(cases, tmp_path / "cache", other).encode()
        assert other.calls == 12
        write_case(tmp_path, "case0", seed=50)
        changed = Embedder()
        embedded(cases, tmp_path / "cache", changed).encode()
        assert changed.calls == 3

    def test_a_decoder_that_trained_keeps_the_embeddings(self, cases: list[dict[str, Any]], tmp_path: Path) -> None:
        embedded(cases, tmp_path / "cache", Embedder()).encode()
        trained = Embedder()
        nn.init.constant_(trained.decoder.weight, 9.0)
        embedded(cases, tmp_path / "cache", trained).encode()
        assert trained.calls == 0

    def test_workers_read_them_without_the_encoder(self, cases: list[dict[str, Any]], tmp_path: Path) -> None:
        found = embedded(cases, tmp_path / "cache", Embedder())
        found.encode()
        (batch,) = DataLoader(found, batch_size=3, num_workers=1)
        torch.testing.assert_close(batch["image"], torch.stack([item["image"] for item in found]))
