from __future__ import annotations

import re
from pathlib import Path

import pytest

from fairmedfm_monai.bundle.pages import INDEX, page, pages
from fairmedfm_monai.catalog import find_row, rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "models"


@pytest.mark.parametrize("name", [INDEX, *(f"{name}.md" for name in rows())])
def test_the_page_checked_in_is_the_rendered_one(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], (
        f"{name} differs: run python scripts/render_bundles.py"
    )


def test_no_page_is_left_over() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(pages())


@pytest.mark.parametrize("name", sorted(pages()))
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", pages()[name])
    assert [link for link in links if not (FOLDER / link).exists()] == []


@pytest.mark.parametrize("name", sorted(rows()))
def test_a_page_has_everything_that_the_row_knows(name: str) -> None:
    row, text = find_row(name), page(find_row(name))
    known = [row.title, row.description, row.proof, row.intended_use, row.code_licence, row.weights_licence]
    known += [*row.training_data, *row.overlaps, *row.references, *row.bundles, *row.variants, *row.prompts]
    known += [entry["file"] for entry in row.weights["files"].values()]
    known += [f"{number:,}" for number in row.parameters.values()]
    assert [fact for fact in known if fact not in text] == []


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("monet", "**Non-commercial weights.**"),
        ("sam_med3d", None),
        ("tinysam", "**Licence of the weights: unstated.**"),
        ("biomedclip", "**Commercial use of the weights: unstated.**"),
        ("moco_cxr", "**The authors' code is non-commercial:**"),
        ("plip", "**Licence of the authors' code: unstated.**"),
    ],
)
def test_restricted_licences_stand_out(name: str, flag: str | None) -> None:
    flags = [line for line in page(find_row(name)).splitlines() if line.startswith("> ")]
    assert any(flag in line for line in flags) if flag else not flags


def test_the_overview_says_who_saw_which_release() -> None:
    [line] = [line for line in pages()[INDEX].splitlines() if "(`brset`)" in line]
    assert "(flair.md)" in line
    [line] = [line for line in pages()[INDEX].splitlines() if "(`ham10000_seg`)" in line]
    assert "(lvm_med.md)" in line
