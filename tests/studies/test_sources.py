from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.data import load_dataset
from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset, public_datasets
from fairmedfm_monai.networks.weights import weights_dir
from fairmedfm_monai.studies.sources import DEMOS, Source, facts_of, find_source, make_source, published_size
from fairmedfm_monai.studies.spec import Dataset
from fairmedfm_monai.studies.weights_at_hand import missing_weights
from tests.miniatures import montgomery
from tests.studies.small import SIZES

MADE = Dataset(demo="xray", bias="shortcut", per_seed=True, options=SIZES)
LUNGS = Dataset(release="montgomery")


def find(dataset: Dataset, output: Path, *, data: Path | None = None, seed: int = 0) -> Source:
    return find_source("slug", dataset, data=data, output=output, seed=seed)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared releases with the miniature lungs as ``slug``."""
    folder = tmp_path_factory.mktemp("data")
    release = find_dataset("montgomery")
    source = montgomery.make(tmp_path_factory.mktemp("raw") / "montgomery")
    prepare_dataset(release, source, folder / "slug", choice=release.choose(), workers=1, progress=False)
    return folder


def test_a_demo_set_is_made_by_its_recipe(tmp_path: Path) -> None:
    source = find(MADE, tmp_path, seed=3)
    assert (source.status, source.counted) == ("to be made", False)
    assert source.sizes == {"train": 12, "val": 12, "test": 24}
    assert source.folder.parent == tmp_path / "data"
    assert source.folder.name.startswith("slug-seed3-")
    assert not (tmp_path / "data").exists()
    assert make_source(MADE, source) == source.folder
    found = find(MADE, tmp_path, seed=3)
    assert (found.status, found.counted, found.sizes) == ("ready", True, source.sizes)
    assert found.folder == source.folder
    card = load_dataset(found.folder).card
    assert (card.task, card.modality, card.spatial_dims) == ("classification", "xray", 2)


def test_other_seeds_and_options_have_other_folders(tmp_path: Path) -> None:
    other = Dataset(demo="xray", bias="shortcut", per_seed=True, options={**SIZES, "n_test": 30})
    stronger = Dataset(demo="xray", bias="shortcut", strength=0.5, per_seed=True, options=SIZES)
    folders = {find(each, tmp_path, seed=seed).folder for each in (MADE, other, stronger) for seed in (0, 1)}
    assert len(folders) == 6


def test_without_a_recipe_it_is_the_built_in_set(tmp_path: Path, session_home: Path) -> None:
    source = find(Dataset(demo="xray"), tmp_path)
    assert source.folder.parent == session_home / "demo"
    assert source.recipe == {}


@pytest.mark.parametrize("demo", DEMOS)
def test_facts_of_demo_sets_are_their_makers(demo: str) -> None:
    import inspect

    from fairmedfm_monai.data.demo.build import MAKERS

    assert set(DEMOS) == set(MAKERS)
    defaults = inspect.signature(MAKERS[demo]).parameters
    assert {split: defaults[f"n_{split}"].default for split in DEMOS[demo].sizes} == dict(DEMOS[demo].sizes)


def test_a_release_that_is_not_there_is_told_with_the_command(tmp_path: Path) -> None:
    dataset = Dataset(release="ham10000", options={"protocol": "fairmedfm"})
    source = find(dataset, tmp_path, data=tmp_path)
    assert source.status == "no data"
    folder = tmp_path / "slug"
    assert f"prepare ham10000 --source RAW --output {folder} --protocol fairmedfm" in source.advice
    assert "--data DATA" in find(dataset, tmp_path).advice
    assert sum(source.sizes.values()) == pytest.approx(10_015, abs=2)


def test_a_prepared_release_is_counted(data: Path, tmp_path: Path) -> None:
    source = find(LUNGS, tmp_path, data=data)
    table = load_dataset(data / "slug").table
    assert (source.status, source.counted) == ("ready", True)
    assert source.sizes == {split: int((table["split"] == split).sum()) for split in ("train", "val", "test")}
    assert sum(source.sizes.values()) == len(table) > 0


def test_content_changes_with_manifest_and_card(data: Path, tmp_path: Path) -> None:
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    before = find(LUNGS, tmp_path, data=data).content
    assert find(LUNGS, tmp_path, data=copied).content == before
    manifest = copied / "slug" / "manifest.csv"
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]), encoding="utf-8")
    assert find(LUNGS, tmp_path, data=copied).content != before


def test_a_folder_of_another_protocol_will_not_do(data: Path, tmp_path: Path) -> None:
    other = Dataset(release="montgomery", options={"protocol": "fairmedfm"})
    source = find(other, tmp_path, data=data)
    assert source.status == "no data"
    assert "holds 'montgomery', but the study needs 'montgomery-fairmedfm'" in source.advice


def test_a_damaged_folder_is_told(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "slug", tmp_path / "slug")
    (tmp_path / "slug" / "manifest.csv").unlink()
    assert "cannot be read" in find(LUNGS, tmp_path, data=tmp_path).advice
    (tmp_path / "slug" / "dataset.json").write_text("{", encoding="utf-8")
    assert find(LUNGS, tmp_path, data=tmp_path).status == "no data"


def test_every_release_tells_its_size_and_task() -> None:
    for release in public_datasets().values():
        assert published_size(release.size) > 0, release.name
        facts = facts_of(Dataset(release=release.name))
        assert facts.task in {"classification", "segmentation"}
    six = facts_of(Dataset(release="nih_chestxray14", options={"rule": "six_diseases"}))
    assert (sum(six.sizes.values()), six.multi_class) == (1200, True)


class TestMissingWeights:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))

    def put(self, name: str) -> None:
        (weights_dir() / name).parent.mkdir(parents=True, exist_ok=True)
        (weights_dir() / name).write_bytes(b"")

    @pytest.mark.parametrize("weights", ["tiny", "random"])
    def test_made_up_weights_need_no_file(self, weights: str) -> None:
        assert missing_weights(find_row("biomedclip"), "default", "zero_shot", weights) == ""

    def test_demo_models_have_shipped_weights(self) -> None:
        assert missing_weights(find_row("demo_clip"), "default", "zero_shot", "pretrained") == ""

    def test_the_file_and_the_command_are_told(self) -> None:
        told = missing_weights(find_row("sam"), "vit_b", "prompted", "pretrained")
        assert "sam_vit_b_01ec64.pth" in told
        assert "weights fetch --fm sam --variant vit_b" in told
        self.put("sam_vit_b_01ec64.pth")
        assert missing_weights(find_row("sam"), "default", "prompted", "pretrained") == ""
        assert "sam_vit_l" in missing_weights(find_row("sam"), "vit_l", "prompted", "pretrained")

    def test_any_of_the_names_that_the_network_takes_will_do(self) -> None:
        self.put("biomedclip.safetensors")
        assert missing_weights(find_row("biomedclip"), "default", "linear_probe", "pretrained") == ""

    def test_texts_need_the_tokenizer_too(self) -> None:
        self.put("biomedclip.bin")
        row = find_row("biomedclip")
        assert missing_weights(row, "default", "linear_probe", "pretrained") == ""
        assert "its tokenizer (tokenizer.json or vocab.txt)" in missing_weights(row, "default", "adapter", "pretrained")
        self.put(f"{row.weights['tokenizer']['folder']}/vocab.txt")
        assert missing_weights(row, "default", "adapter", "pretrained") == ""

    def test_variants_without_weights_are_told(self) -> None:
        self.put("any")
        assert "no pretrained weights" in missing_weights(find_row("clip"), "RN50", "linear_probe", "pretrained")

    def test_a_path_must_be_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "own.pt"
        assert "is no file" in missing_weights(find_row("sam"), "default", "prompted", str(file))
        file.write_bytes(b"")
        assert missing_weights(find_row("sam"), "default", "prompted", str(file)) == ""


def test_recipe_is_json(tmp_path: Path) -> None:
    assert json.loads(json.dumps(find(MADE, tmp_path, seed=1).recipe)) == {**SIZES, "bias": "shortcut", "seed": 1}
