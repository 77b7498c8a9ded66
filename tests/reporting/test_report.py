from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import evaluate_predictions, read_table
from fairmedfm_monai.reporting import write_report

BANNERS = ["Random weights: <b>numbers</b> mean nothing.", "Semi-synthetic, one anatomy."]
NAMELESS = {"img", "script", "link", "iframe", "object", "embed", "video", "audio", "source", "base", "form"}


class Page(HTMLParser):
    """Collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags, self.exact, self.tables = [], [], [], {}
        self.pictures, self.plot, self.cell, self.text = [], None, None, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append(tag)
        self.addresses += [named[key] for key in ("href", "src", "action", "data", "xlink:href") if key in named]
        if tag == "svg":
            self.pictures.append(named)
        if tag == "table":
            self.plot = named.get("data-metric")
        if tag == "data":
            self.exact.append((self.plot, named["value"]))

    def handle_data(self, data):
        self.text += f"{data} "


@pytest.fixture(scope="module")
def classification(tmp_path_factory):
    rng = np.random.default_rng(0)
    n = 500
    sex = rng.choice(["female", "male"], n)
    label = (rng.random(n) < 0.4).astype(int)
    score = 1 / (1 + np.exp(-rng.normal((2 * label - 1) * np.where(sex == "male", 1.2, 0.3), 1)))
    table = pd.DataFrame(
        {
            "case_id": [f"secret{i}" for i in range(n)],
            "patient_id": [f"person{i // 2}" for i in range(n)],
            "split": np.where(np.arange(n) < 150, "val", "test"),
            "sex": sex,
            "race": rng.choice(["white", "black", "unknown"], n, p=[0.7, 0.2, 0.1]),
            "failed": "",
            "label": label,
            "score": score,
        }
    )
    meta = {
        "task": "classification",
        "classes": ["no", "yes"],
        "positive_class": "yes",
        "attributes": {"sex": ["female", "male"], "race": ["white", "black", "asian"]},
        "intersections": [["sex", "race"]],
        "unit": "patient",
    }
    report = evaluate_predictions(table, meta, n_bootstrap=100)
    folder = tmp_path_factory.mktemp("classification")
    tags = {"fm": "toy_fm", "weights_licence": "toy-1.0; commercial use: no", "stamps": ["said above"]}
    run = {"dataset": "toy", "finished": "2026-01-02T03:04:05", "tags": tags, "versions": {"numpy": "2"}}
    files = write_report(report, folder, title="A & B", banners=BANNERS, predictions=table, run=run)
    return report, folder, files


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = []
    for index in range(40):
        for prompt in ("box", "point"):
            for label in ("kidney", "tumour"):
                dice = float(np.clip(rng.normal(0.8 if prompt == "box" else 0.6, 0.1), 0, 1))
                rows.append(
                    {
                        "case_id": f"secret{index}",
                        "patient_id": f"person{index}",
                        "split": "test",
                        "sex": "female" if index % 2 else "male",
                        "failed": "",
                        "label": label,
                        "prompt": prompt,
                        "dice": dice,
                        "nsd": dice,
                        "hd95": 30 * (1 - dice),
                        "filled_box_dice": 0.7,
                        "empty_reference": False,
                        "empty_prediction": False,
                    }
                )
    table = pd.DataFrame(rows)
    meta = {"task": "segmentation", "attributes": {"sex": ["female", "male"]}, "unit": "patient"}
    report = evaluate_predictions(table, meta, n_bootstrap=100)
    folder = tmp_path_factory.mktemp("segmentation")
    run = {"attributes": meta["attributes"], "reader_dice": {"tumour": 0.83}}
    write_report(report, folder, title="Volumes", predictions=table, run=run)
    return report, folder


def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_licence_of_the_weights_stands_once_and_stamps_only_as_banners(classification):
    _, folder, _ = classification
    for name in ("report.html", "model_card.md"):
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count("Weights licence: toy-1.0; commercial use: no") == 1
        assert text.count("toy-1.0") == 1
        assert "said above" not in text


def test_attributes_have_the_titles_of_their_card(classification, tmp_path):
    report, _, _ = classification
    table = pd.DataFrame({"split": ["test"], "sex": ["female"], "race": ["white"], "failed": [""]})
    titles = {"sex": "Sex at birth (registry)", "race": "overall"}  # the second would be taken for everyone
    write_report(report, tmp_path, title="Titled", predictions=table, run={"attribute_titles": titles})
    card, text = (tmp_path / "model_card.md").read_text(encoding="utf-8"), page(tmp_path).text
    for found in (card, text):
        assert "Sex at birth (registry) · race" in found
        assert "Sex ·" not in found
        assert "Race" in found
    assert set(read_table(tmp_path / "subgroups.csv")["attribute"]) == {"overall", "sex", "race", "sex__race"}
    assert set(report.subgroups["attribute"]) == {"overall", "sex", "race", "sex__race"}


def test_a_run_without_a_licence_says_nothing_of_it(segmentation):
    _, folder = segmentation
    assert "licence" not in (folder / "model_card.md").read_text(encoding="utf-8")
    assert "Weights licence" not in (folder / "report.html").read_text(encoding="utf-8")


def test_all_files_are_written(classification):
    _, folder, files = classification
    names = {"subgroups.csv", "disparities.csv", "run.json", "report.html", "model_card.md"}
    assert {path.name for path in files} == names == {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_page_asks_for_nothing_from_anywhere(kind, request):
    folder = request.getfixturevalue(kind)[1]
    text = (folder / "report.html").read_text(encoding="utf-8")
    found = page(folder)
    assert not found.addresses
    assert not NAMELESS & set(found.tags)
    assert not re.search(r"https?://|url\(|@import|javascript:", text)


def test_every_picture_has_words_or_is_decoration(classification):
    pictures = page(classification[1]).pictures
    assert len(pictures) > 40
    assert all("aria-label" in one or one.get("aria-hidden") == "true" for one in pictures)
    assert any("AUC, female" in one.get("aria-label", "") for one in pictures)


def test_banners_notes_and_disclaimer_are_seen_and_escaped(classification):
    text = page(classification[1]).text
    for banner in BANNERS:
        assert banner in text  # the parser has unescaped it: no tag was made of it
    assert "Research use; not a medical device." in text
    assert "A & B" in text
    assert "<b>numbers" not in (classification[1] / "report.html").read_text(encoding="utf-8")


def test_small_and_empty_groups_are_announced(classification):
    text = page(classification[1]).text
    assert "Small groups" in text
    assert "race asian" in text


def test_numbers_are_those_of_the_tables(classification):
    report, folder, _ = classification
    subgroups = read_table(folder / "subgroups.csv").query("split == 'test'")
    found = page(folder)
    for metric in ("auc", "sensitivity", "specificity"):
        shown = [float(value) for plot, value in found.exact if plot == metric]
        expected = subgroups.query("metric == @metric")["value"].dropna().tolist()
        assert shown == expected, metric
    disparities = read_table(folder / "disparities.csv")
    shown = {float(value) for plot, value in found.exact if plot is None}
    assert shown
    assert shown <= set(disparities["value"].dropna())
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["metrics"] == report.metrics()


def test_sentence_tells_the_gap_with_interval_chance_and_power(classification):
    report, folder, _ = classification
    row = report.disparities.query("split == 'test' and attribute == 'sex' and metric == 'auc' and statistic == 'gap'")
    gap = row.iloc[0]
    text = " ".join(page(folder).text.split())
    assert f"a gap of {gap['value']:.3f}" in text
    assert f"95 % interval {gap['ci_low']:.3f} to {gap['ci_high']:.3f}" in text
    assert f"chance alone would give gaps up to {gap['null_high']:.3f}" in text
    assert f"with 80 % power: {gap['detectable']:.3f}" in text
    assert "beyond chance" in text


def test_threshold_without_validation_split_is_a_banner(tmp_path):
    rng = np.random.default_rng(0)
    label = np.arange(80) % 2
    table = pd.DataFrame({"split": "test", "label": label, "score": rng.random(80), "sex": ["female", "male"] * 40})
    meta = {"task": "classification", "classes": ["no", "yes"], "attributes": {"sex": ["female", "male"]}}
    report = evaluate_predictions(table, meta, n_bootstrap=0)
    write_report(report, tmp_path, title="Uncalibrated", predictions=table)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    banners = re.findall(r'<div class="banner" role="note"><p>(.*?)</p>', text)
    assert any("not calibrated here" in banner for banner in banners)
    assert "cannot be estimated" in text  # each sex has one class only


def test_unknown_is_counted_on_its_own_line(classification):
    report, folder, _ = classification
    rows = report.subgroups.query("split == 'test' and attribute == 'race' and group == 'unknown' and metric == 'auc'")
    text = " ".join(page(folder).text.split())
    assert f"unknown {rows.iloc[0]['n_patients']} {rows.iloc[0]['n_cases']}" in text


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_no_case_or_patient_is_named(kind, request):
    folder = request.getfixturevalue(kind)[1]
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        assert "secret" not in text, file.name
        assert "person1" not in text, file.name


def test_filled_box_and_readers_stand_beside_the_model(segmentation):
    report, folder = segmentation
    text = " ".join(page(folder).text.split())
    assert "Against the box itself" in text
    assert "0.830" in text
    box = report.subgroups.query(
        "prompt == 'point' and label == 'kidney' and attribute == 'overall' and metric == 'dice'"
    )
    assert f"{box.iloc[0]['value'] - 0.7:+.3f}".replace("-", "−") in text
    assert "Cumulative Dice by sex" in (folder / "report.html").read_text(encoding="utf-8")


def test_model_card_agrees_and_names_its_limits(classification):
    report, folder, _ = classification
    text = (folder / "model_card.md").read_text(encoding="utf-8")
    women = report.subgroups.query("split == 'test' and attribute == 'sex' and group == 'female' and metric == 'auc'")
    assert f"| Sex female | {women.iloc[0]['value']:.3f} |" in text
    assert "Research use; not a medical device." in text
    assert "fm: toy_fm" in text
    assert "## Limits" in text


def test_nan_becomes_null_in_run_json(classification):
    text = (classification[1] / "run.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
