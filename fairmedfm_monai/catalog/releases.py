"""Public releases of data: names by which a dataset card (``release``) and a catalog row (``overlaps``) meet."""

from __future__ import annotations

RELEASES = {
    "chexpert": "CheXpert",
    "mimic_cxr": "MIMIC-CXR",
    "nih_chestxray14": "NIH ChestX-ray14",
    "ham10000": "HAM10000",
    "fairvlmed10k": "Harvard-FairVLMed10k",
    "harvard_gf": "Harvard-GF",
    "papila": "PAPILA",
    "brset": "BRSET",
    "covid_ct_md": "COVID-CT-MD",
    "adni": "ADNI",
    "ham10000_seg": "HAM10000 with lesion masks",
    "tusc": "TUSC (Stanford thyroid ultrasound cine-clips)",
    "fairseg": "Harvard-FairSeg",
    "montgomery": "Montgomery County chest radiographs",
    "kits23": "KiTS23",
    "candi": "CANDI",
    "ircadb": "3D-IRCADb",
    "spider": "SPIDER",
}
"""Slug -> title."""

# Releases of one set of images under several names: a model that saw one of them saw them all.
SAME_IMAGES = (frozenset({"ham10000", "ham10000_seg"}),)


def same_images(release: str) -> frozenset[str]:
    """All releases that hold the images of ``release``, itself included."""
    return next((group for group in SAME_IMAGES if release in group), frozenset({release}))
