"""The studies of this package: what they expand to, and that everything they name exists."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest

from fairmedfm_monai.catalog import rows
from fairmedfm_monai.data.demo.build import MAKERS
from fairmedfm_monai.data.prepare.registry import find_dataset
from fairmedfm_monai.fairness.selection import selection_names
from fairmedfm_monai.mitigation.method import METHODS
from fairmedfm_monai.mitigation.postprocess import POSTPROCESSORS
from fairmedfm_monai.studies.bundle_keys import settings_of
from fairmedfm_monai.studies.cells import not_offered, study_cells
from fairmedfm_monai.studies.lookup import matches
from fairmedfm_monai.studies.sources import facts_of
from fairmedfm_monai.studies.spec import load_study

NAMES = ("demo", "fairmedfm", "fairseg", "mitigation", "xray_clip")
# FairMedFM: 9 classification sets; 6 vision-language FMs and 5 others, of which 3 with 4 methods and 3 seeds; 4 later
# FMs, 3 of them vision-language; 8 segmentation sets, half of them volumes, 6 FMs for slices, 3 for volumes, 2 later.
CELLS = {
    "fairmedfm": {
        "zero_shot": 9 * (6 + 3),
        "prototypes": 9 * (6 + 3),
        "linear_probe": 9 * (8 + 3 * 4 * 3 + 4),
        "classification lora": 9 * (8 + 3 * 4 * 3 + 4),
        "prompted": 8 * 6 + 4 * 3 + 8 * 2,
        "segmentation lora": 4 * 2 * 4 * 3,
    },
    "fairseg": {"segmentation lora": 1 + 2 * 4},
    "xray_clip": {
        "zero_shot": 5,
        **dict.fromkeys(("linear_probe", "mlp_probe", "classification lora", "full_finetune"), 5 * 3),
    },
    "mitigation": {"linear_probe": (9 + 3) * 3, "classification lora": (9 + 3) * 3, "segmentation lora": 5 * 3},
}


@pytest.fixture(scope="module", params=NAMES)
def study(request):
    return load_study(request.param)


@pytest.fixture(scope="module")
def cells(study):
    return study_cells(study)


def kind(cell):
    return f"{cell.task} {cell.usage}" if cell.usage == "lora" else cell.usage


def test_number_of_cells(study, cells):
    if study.name in CELLS:
        assert Counter(map(kind, cells)) == CELLS[study.name]
    assert len({cell.key for cell in cells}) == len(cells)


def test_every_cell_is_offered(study, cells):
    reasons = {cell.key: not_offered(cell, facts_of(study.datasets[cell.dataset])) for cell in cells}
    assert {key: reason for key, reason in reasons.items() if reason} == {}


def test_cells_name_what_exists(cells):
    for cell in cells:
        row = rows()[cell.fm]
        assert cell.usage in row.usages, cell.key
        assert cell.variant in ("default", *row.variants), cell.key
        assert cell.mitigation in {**METHODS, **POSTPROCESSORS}, cell.key


def test_overrides_are_keys_of_the_bundles(cells):
    for cell in {(cell.fm, cell.usage, *cell.train, "|", *cell.evaluate): cell for cell in cells}.values():
        for stage in ("train", "evaluate") if cell.trained else ("evaluate",):
            for key in getattr(cell, stage):
                place = settings_of(cell.fm, cell.usage, stage)
                *path, last = key.split("#")
                for part in path:
                    place = place[int(part)] if isinstance(place, list) else place[part]
                # MONAI adds arguments of a component by an override: a component takes any of its class.
                assert last in place or "_target_" in place, f"{cell.key}: {stage} {key}"


def test_datasets_can_be_prepared_or_made(study):
    for slug, dataset in study.datasets.items():
        if dataset.release is not None:
            find_dataset(dataset.release).choose(**dataset.options)
        else:
            arguments = {**dataset.options, "bias": dataset.bias, "strength": dataset.strength}
            assert set(arguments) <= set(inspect.signature(MAKERS[dataset.demo]).parameters), slug


def test_attributes_exist_on_the_cards(study, cells):
    wanted = {(cell.dataset, attribute) for cell in cells for attribute in cell.attributes}
    for table in study.tables:
        asked = {column.attribute for column in table.columns if column.attribute}
        wanted |= {(cell.dataset, attribute) for cell in cells if matches(cell, table.where) for attribute in asked}
    for slug, attribute in sorted(wanted):
        release = study.datasets[slug].release
        known = ("sex", "age", "race")
        if release is not None:
            public = find_dataset(release)
            known = tuple(public.card(public.choose(**study.datasets[slug].options))["attributes"])
        assert attribute in known, f"{slug}: {attribute}"


def columns_of(study):
    """Every number that tables, figures and published values ask for, with the cells that it is asked of."""
    for table in study.tables:
        yield from ((column, table.where) for column in table.columns)
    for figure in study.figures:
        yield from (
            (column, figure.where) for column in (figure.utility, figure.gap, figure.column) if column is not None
        )
    yield from ((published.column, published.where) for published in study.published)


def labels_of(study, dataset):
    """Labels that reports of a dataset have; "" is the mean over several, or the only one of two classes."""
    if dataset.release is None:
        return {"", "liver"} if dataset.demo == "ct2d" else {""}
    public = find_dataset(dataset.release)
    card = public.card(public.choose(**dataset.options))
    if card["task"] == "segmentation":
        return {*card["labels"], *([""] if len(card["labels"]) > 1 else [])}
    return {""} if len(card["classes"]) == 2 else {"", *card["classes"]}


def test_numbers_of_tables_and_figures_are_reported(study, cells):
    for column, where in columns_of(study):
        chosen = [cell for cell in cells if matches(cell, where)]
        assert chosen, f"no cell for {where}"
        for cell in {cell.dataset: cell for cell in chosen}.values():
            labels = labels_of(study, study.datasets[cell.dataset])
            told = f"{cell.dataset}: {column}"
            assert column.label == "*" or column.label in labels, told
            label = next(iter(labels - {""})) if column.label == "*" else column.label
            prompts = cell.evaluate.get("prompts") or ["box", "center", "point", "points"]
            prompted = cell.usage in ("prompted", "lora_prompted", "decoder_finetune", "full_finetune")
            prompted = prompted and cell.task == "segmentation"
            assert (column.prompt in prompts) if prompted or column.prompt else True, told
            if not column.statistic:
                continue
            names = selection_names(
                cell.task,
                {column.attribute: ["a", "b"]},
                splits=[column.split],
                labels=["", "other"] if len(labels) > 1 and not label else [label],
                prompts=[column.prompt],
            )
            parts = (column.prompt, column.split, label, column.attribute, "disparity", column.statistic, column.metric)
            assert "/".join(part for part in parts if part) in names, told


def test_choices_that_were_not_published_are_named(study):
    told = " ".join(f"{choice.what} {choice.why}" for choice in study.ours)
    wanted = {
        "fairmedfm": ("LoRA rank", "mitigation for segmentation"),
        "fairseg": ("absent from a batch",),
        "xray_clip": ("diseases", "age groups", "ECE of six classes"),
        "demo": ("data",),
        "mitigation": ("which epoch is kept", "options of the methods"),
    }
    assert all(text in told for text in wanted[study.name])
    assert all(choice.why and choice.source in ("paper", "code", "ours") for choice in study.choices)


def test_published_values_hold_together():
    """The numbers of one published run agree with each other to their digits."""
    found = {
        (p.where["dataset"], p.where["usage"], p.column.metric, p.column.statistic, p.column.group): p.value
        for p in load_study("fairmedfm").published
    }
    lp = ("ham10000", "linear_probe")
    male, female = (found[(*lp, "auc", "", group)] for group in ("male", "female"))
    assert found[(*lp, "auc", "worst", "")] == min(male, female)
    assert found[(*lp, "auc", "gap", "")] == pytest.approx(male - female, abs=1e-4)
    # Confusion counts of the authors' notebook at threshold 0.5: tn, fp, fn, tp of both sexes.
    counts = {"male": (724, 13, 151, 16), "female": (786, 25, 83, 13)}
    right = sum(tn + tp for tn, _, _, tp in counts.values())
    assert found[(*lp, "accuracy", "", "")] == pytest.approx(right / 1811, abs=5e-5)
    tpr = [tp / (tp + fn) for _, _, fn, tp in counts.values()]
    tnr = [tn / (tn + fp) for tn, fp, _, _ in counts.values()]
    score = 1 - (abs(tpr[0] - tpr[1]) + abs(tnr[0] - tnr[1])) / 2
    assert found[(*lp, "sensitivity_specificity", "equalized_odds_score", "")] == pytest.approx(score, abs=5e-5)
    tusc = ("tusc", "prompted", "dice")
    sd, mean = found[(*tusc, "sd", "")], found[(*tusc, "", "")]
    assert found[(*tusc, "gap", "")] == pytest.approx(2 * sd, abs=2e-4)
    assert found[(*tusc, "es_std", "")] == pytest.approx(mean / (1 + sd), abs=1e-4)


def test_mitigation_study_trains_every_method_alike():
    study = load_study("mitigation")
    cells = study_cells(study)
    for usage, methods in (("linear_probe", set(METHODS)), ("lora", set(METHODS))):
        chosen = [cell for cell in cells if cell.usage == usage and cell.task == "classification"]
        assert {cell.mitigation for cell in chosen} == (methods | set(POSTPROCESSORS)) - {"febs", "febs_published"}
    trained = [cell for cell in cells if cell.mitigation not in POSTPROCESSORS]
    for group in {(cell.task, cell.usage) for cell in trained}:
        assert len({str(sorted(cell.train.items())) for cell in trained if (cell.task, cell.usage) == group}) == 1
    assert {cell.seed for cell in cells} == {1, 2, 3}
    assert all(dataset.per_seed for dataset in study.datasets.values())


def test_stage_two_of_fairseg_starts_from_stage_one():
    cells = {cell.key: cell for cell in study_cells(load_study("fairseg"))}
    stage_one = [cell for cell in cells.values() if cell.mitigation == "erm"]
    assert len(stage_one) == 1
    for cell in cells.values():
        if cell.mitigation != "erm":
            assert cell.base == stage_one[0].key
            assert cell.train["learning_rate"] < stage_one[0].train["learning_rate"]
            assert cell.train["image_size"] == 512
