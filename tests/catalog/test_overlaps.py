from __future__ import annotations

import json
import re
from importlib import resources

import pytest

from fairmedfm_monai.catalog import Row, find_row, rows
from fairmedfm_monai.catalog.releases import RELEASES, same_images

# How rows name the releases, or larger data that contain them, in `training_data`: the 3D-IRCADb volumes are part of
# LiTS (and so of the decathlon's liver task), and KiTS grew from 2019 to 2023.
NAMED = {
    "chexpert": r"CheXpert",
    "mimic_cxr": r"MIMIC-CXR",
    "nih_chestxray14": r"ChestX-ray14",
    "ham10000": r"HAM10000",
    "papila": r"PAPILA",
    "brset": r"BRSET",
    "adni": r"\bADNI\b",
    "kits23": r"\bKiTS",
    "ircadb": r"IRCAD|\bLiTS\b|MSD \([^)]*liver",
    "montgomery": r"Montgomery",
    "covid_ct_md": r"COVID-CT-MD",
    "spider": r"SPIDER",
    "candi": r"CANDI",
    "tusc": r"TUSC",
    "fairseg": r"FairSeg",
    "fairvlmed10k": r"FairVLMed",
    "harvard_gf": r"Harvard-GF",
}


@pytest.mark.parametrize("name", sorted(rows()))
def test_releases_named_in_the_training_data_are_overlaps(name: str) -> None:
    row = find_row(name)
    named = {slug for slug, pattern in NAMED.items() if any(re.search(pattern, text) for text in row.training_data)}
    assert named <= set(row.overlaps)


def test_every_row_says_what_overlaps() -> None:
    for file in resources.files("fairmedfm_monai.catalog").joinpath("rows").iterdir():
        if file.name.endswith(".json"):
            assert "overlaps" in json.loads(file.read_text(encoding="utf-8")), file.name


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`overlaps` must hold slugs of chexpert, .* but got 'chexprt'"):
        Row(**{**vars(find_row("gloria")), "overlaps": ("chexprt",)})


def test_shared_images_count_both_ways() -> None:
    assert same_images("ham10000") == same_images("ham10000_seg") == {"ham10000", "ham10000_seg"}
    masks = Row(**{**vars(find_row("sam")), "overlaps": ("ham10000_seg",)})
    pictures = Row(**{**vars(find_row("sam")), "overlaps": ("ham10000",)})
    for row in (masks, pictures):
        assert row.saw("ham10000")
        assert row.saw("ham10000_seg")
        assert not row.saw("chexpert")


def test_every_release_has_a_title_and_a_name_here() -> None:
    assert set(NAMED) | {"ham10000_seg"} == set(RELEASES)


def test_restricted_is_what_nobody_allowed() -> None:
    values = vars(find_row("sam"))
    free = {"weights_licence": "Apache-2.0", "commercial_use": "yes"}
    for changes, restricted in (
        ({}, False),
        ({"commercial_use": "no"}, True),
        ({"commercial_use": "unstated"}, True),
        ({"weights_licence": "unstated"}, True),
    ):
        assert Row(**{**values, **free, **changes}).is_restricted is restricted
