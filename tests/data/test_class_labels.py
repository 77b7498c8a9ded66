from __future__ import annotations

import json

import pytest
import torch
from monai.engines.utils import default_prepare_batch

from fairmedfm_monai.data.class_labels import PrepareClasses, read_class_label

CLASSES = ["no_finding", "Finding"]


@pytest.mark.parametrize(
    ("content", "index"),
    [
        ({"label": "Finding"}, 1),
        ({"label": "finding"}, 1),
        ({"label": 0}, 0),
        (
            {
                "prediction": [
                    {"idx": 0, "label": "no_finding", "score": 0.2},
                    {"idx": 1, "label": "finding", "score": 0.8},
                ]
            },
            1,
        ),
    ],
)
def test_file_forms(tmp_path, content, index):
    file = tmp_path / "case.json"
    file.write_text(json.dumps(content))
    assert read_class_label(file, CLASSES) == index


@pytest.mark.parametrize(
    "text", ["", "[]", '{"prediction": []}', '{"label": "other"}', '{"label": 2}', '{"label": true}']
)
def test_what_is_no_label_is_refused_with_its_file(tmp_path, text):
    file = tmp_path / "case.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"case\.json"):
        read_class_label(file, CLASSES)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json"):
        read_class_label(tmp_path / "gone.json", CLASSES)


def test_numbers_pass_as_with_monai():
    batch = {"image": torch.rand(2, 1, 4, 4), "label": torch.tensor([1, 0])}
    for ours, theirs in zip(PrepareClasses(CLASSES)(batch, "cpu"), default_prepare_batch(batch, "cpu"), strict=True):
        assert torch.equal(ours, theirs)


def test_paths_become_numbers(tmp_path):
    paths = []
    for index in (1, 0, 1):
        paths.append(str(tmp_path / f"{len(paths)}.json"))
        (tmp_path / paths[-1]).write_text(json.dumps({"label": CLASSES[index]}))
    image, label = PrepareClasses(CLASSES)({"image": torch.zeros(3, 8), "label": paths})
    assert image.shape == (3, 8)
    assert torch.equal(label, torch.tensor([1, 0, 1]))


def test_no_label_stays_none():
    assert PrepareClasses(CLASSES)({"image": torch.zeros(1, 8)})[1] is None
