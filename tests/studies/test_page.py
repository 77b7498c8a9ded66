from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.studies.jobs import Job, job_folder
from fairmedfm_monai.studies.page import write_results
from fairmedfm_monai.studies.spec_reading import read_study

from .made import CASE_ID, HASH, binary_rows, cell, fail, finish, gap_row, group_row, planned

TINY = "tiny random weights: the numbers say nothing about <b>the</b> model"
SEX_GAP = {"metric": "auc", "attribute": "sex", "statistic": "gap"}
FIGURE = {"where": {"mitigation": "erm"}, "title": "F"}
STUDY = {
    "name": "toy",
    "title": "A & B",
    "paper": "Someone 2024",
    "datasets": {"papila": {"release": "papila"}, "brset": {"release": "brset"}, "ham10000": {"release": "ham10000"}}
    | {"adni": {"release": "adni"}, "made": {"demo": "xray", "per_seed": True}},
    "grids": [{"task": "classification", "datasets": ["papila"], "fms": ["clip"], "usages": ["linear_probe"]}],
    "choices": [{"what": "six diseases", "value": 6, "source": "ours", "why": "not published"}],
    "tables": [
        {
            "name": "main",
            "title": "Main",
            "rows": ["dataset", "fm", "mitigation"],
            "columns": [{"metric": "auc"}, SEX_GAP],
        },
        {
            "name": "change",
            "title": "Change",
            "rows": ["dataset", "fm"],
            "columns": [{"metric": "auc"}],
            "against": "erm",
        },
        {
            "name": "later",
            "title": "Later",
            "rows": ["fm"],
            "where": {"dataset": "adni"},
            "columns": [{"metric": "auc"}],
        },
    ],
    "figures": [
        FIGURE | {"kind": "ranks", "column": {"metric": "auc"}},
        FIGURE | {"kind": "favoured", "column": {"metric": "auc", "attribute": "sex"}},
        FIGURE | {"kind": "tradeoff", "utility": {"metric": "auc"}, "gap": SEX_GAP},
        {"kind": "ranks", "title": "Mixed", "column": {"metric": "auc"}},
        {"kind": "ranks", "title": "Aimless", "column": {"metric": "selection_rate"}},
    ],
    "published": [
        {"where": {"dataset": "papila", "fm": "clip"}, "column": {"metric": "auc"}, "value": 0.1, "source": "s"}
    ],
}
FMS = ("clip", "biomedclip", "medclip")
STATUSES = ("failed", "interrupted", "not run", "no data", "no weights", "not offered", "left out", "unreadable")


class Page(HTMLParser):
    """Collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.raw, self.text, self.addresses, self.tags, self.exact, self.pictures = text, "", [], set(), [], []
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.add(tag)
        self.addresses += [named[key] for key in ("href", "src", "action", "data") if key in named]
        if tag == "svg":
            self.pictures.append(named)
        if tag == "data":
            self.exact.append(float(named["value"]))

    def handle_data(self, data):
        self.text += f"{data} "


def done_cells(output):
    """Four datasets, three FMs, two methods, two seeds; the numbers are known exactly."""
    rng = np.random.default_rng(0)
    plan = []
    for dataset in ("papila", "brset", "ham10000", "made"):
        for level, fm in enumerate(FMS):
            for method in ("erm", "group_dro"):
                for seed in range(2):
                    made = cell(
                        dataset, fm, mitigation=method, attributes=() if method == "erm" else ("sex",), seed=seed
                    )
                    groups, gaps = binary_rows(0.6 + level / 10 + rng.normal(0, 0.01), 0.12)
                    finish(output, made, groups, gaps, banners=[TINY] if fm == "medclip" else [])
                    plan.append(planned(made))
    return plan


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    output = tmp_path_factory.mktemp("study")
    plan = done_cells(output)
    failed, stopped, broken = (cell("adni", fm) for fm in FMS)
    fail(output, failed)
    Job(job_folder(output, stopped.key), HASH).start(stopped.to_json(), {})
    finish(output, broken, [group_row(0.5)], [gap_row(math.nan)])
    (job_folder(output, broken.key) / "eval" / "run.json").write_text("[]", encoding="utf-8")
    plan += [planned(failed), planned(stopped), planned(broken), planned(cell("adni", seed=1))]
    plan += [
        planned(cell("adni", seed=2), "no data", "make it with <prepare>"),
        planned(cell("adni", seed=3), "no weights"),
    ]
    plan += [planned(cell("adni", "sam"), "not offered"), planned(cell("adni", seed=4), "left out")]
    return write_results(read_study(STUDY, origin="test"), plan, output), plan


@pytest.fixture(scope="module")
def page(study):
    return Page(study[0].read_text(encoding="utf-8"))


def test_everything_is_written(study):
    index, _ = study
    folder = index.parent
    assert index.name == "index.html"
    names = {
        "results.parquet",
        "results.csv",
        *(f"tables/{name}{end}" for name in ("main", "change", "later") for end in (".csv", ".md")),
    }
    names |= {"figures/ranks-1.svg", "figures/favoured-2.svg", "figures/tradeoff-3.svg"}
    assert all((folder / name).is_file() for name in names)


def test_the_page_fetches_nothing_and_its_links_lead_somewhere(study, page):
    folder = study[0].parent
    assert not page.tags & {"img", "script", "link", "iframe", "object", "embed", "form", "base"}
    assert not re.search(r"@import|javascript:", page.raw)
    assert not re.search(r"url\((?!#)", page.raw)
    assert not [address for address in page.addresses if re.match(r"\w+:|//|/", address)]
    files = [unquote(address) for address in page.addresses if not address.startswith("#")]
    assert len([name for name in files if name.endswith("report.html")]) == 48
    assert all((folder / name).is_file() for name in files)
    marks = set(re.findall(r'id="([^"]+)"', page.raw))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= marks


def test_no_case_is_named_anywhere(study):
    folder = study[0].parent
    written = [path for path in folder.rglob("*") if path.is_file() and "cells" not in path.relative_to(folder).parts]
    assert len(written) > 8
    for path in written:
        assert CASE_ID.encode() not in path.read_bytes(), path.name


def test_every_status_is_counted(page):
    for status in STATUSES:
        assert re.search(rf"1 {status}", page.text), status
    assert "48 done" in page.text
    assert "make it with <prepare>" in page.text  # escaped: the parser has read it as text


def test_numbers_are_means_of_the_long_table(study, page):
    frame = pd.read_parquet(study[0].parent / "results.parquet")
    chosen = frame[(frame["split"] == "test") & (frame["attribute"] == "overall") & (frame["metric"] == "auc")]
    chosen = chosen[chosen["dataset"] != "adni"]
    means = chosen.groupby(["dataset", "fm", "mitigation"])["value"].mean()
    assert len(means) == 24
    for mean in means:
        assert any(math.isclose(mean, shown, rel_tol=1e-12) for shown in page.exact)


def test_what_is_stamped_or_ours_is_called_no_reproduction(page):
    assert "No reproduction of the publication: 1 setting is ours (six diseases)" in page.text
    assert TINY[0].upper() + TINY[1:] in page.text
    assert "<b>the</b>" not in page.raw
    assert "ours: six diseases" in page.text
    claims = re.findall(r"(\w+) reproduction", page.text)
    assert set(claims) == {"No", "no"}


def test_published_numbers_and_unknown_ones(page):
    assert "0.100 outside our interval (training)" in page.text
    assert "unknown" in page.text


def test_replications_are_told_from_seeds(page):
    assert "2 seeds" in page.text
    assert "2 replications" in page.text
    assert "not from one set of patients to another" in page.text


def test_figures_have_words(page):
    assert len(page.pictures) == 4
    assert all(picture.get("role") == "img" and picture["aria-label"] for picture in page.pictures)
    assert (
        "Average ranks by AUC of 3 over 4 datasets (1 is best): MedCLIP 1.00, BiomedCLIP 2.00, CLIP 3.00." in page.text
    )
    assert "Friedman: chi² = 8.00" in page.text  # 12 / (4 * 3 * 4) * (4² + 8² + 12²) - 3 * 4 * 4
    assert "Nemenyi" in page.text
    assert "Holm" in page.text
    assert "in favour of: male 12" in page.text
    assert "On the Pareto front" in page.text


def test_a_figure_never_mixes_settings(page):
    assert "Cells are also told apart by mitigation:" in page.text
    assert "MedCLIP · group_dro" in page.text


def test_a_figure_that_cannot_be_drawn_says_so(page):
    assert "Not drawn: of Selection rate neither direction is better" in page.text


def test_the_same_study_gives_the_same_page(study):
    index, plan = study
    before = index.read_bytes()
    assert write_results(read_study(STUDY, origin="test"), plan, index.parent).read_bytes() == before


def test_a_study_without_any_result_has_a_page(tmp_path):
    plan = [planned(cell(dataset, fm), "no data", "advice") for dataset in ("papila", "adni") for fm in FMS]
    found = Page(write_results(read_study(STUDY, origin="test"), plan, tmp_path).read_text(encoding="utf-8"))
    assert "No cell is done: there are no numbers yet." in found.text
    assert "no data" in found.text
    assert not found.exact
