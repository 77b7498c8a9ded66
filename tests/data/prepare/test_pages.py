"""Pages of the public datasets equal what is checked in, and say what the modules know."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairmedfm_monai.catalog.releases import RELEASES
from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.prepare import public_datasets
from fairmedfm_monai.data.prepare.pages import pages, with_table

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "datasets"
DATASETS = public_datasets().values()


def test_pages_checked_in_are_the_rendered_ones() -> None:
    rendered = pages(DATASETS)
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == rendered, (
        "run scripts/render_datasets.py"
    )


def test_table_of_the_readme_is_current() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme, DATASETS) == readme, "run scripts/render_datasets.py"


def test_every_benchmark_release_has_a_module() -> None:
    assert sorted(public_datasets()) == sorted(RELEASES)


@pytest.mark.parametrize("name", sorted(public_datasets()))
def test_every_choice_has_a_sound_card_and_the_page_its_facts(name: str) -> None:
    dataset = public_datasets()[name]
    page = pages(DATASETS)[f"{name}.md"]
    choices = [dataset.choose(rule=rule) for rule in dataset.rules]
    choices += [dataset.choose(protocol=protocol) for protocol in dataset.protocols]
    cards = [Card.from_dict(dataset.full_card(choice)) for choice in choices]
    assert not any(card.warnings for card in cards)
    assert {card.release for card in cards} == {name}
    assert len({card.name for card in cards}) == len(choices)
    known = [dataset.title, dataset.licence, dataset.citation, dataset.access, *dataset.layout, *dataset.rules]
    assert [fact for fact in [*known, *dataset.hazards, *dataset.protocols] if fact not in page] == []
