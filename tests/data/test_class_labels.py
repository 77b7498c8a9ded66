from __future__ import annotations

import json

import pytest
import torch
from monai.engines.utils import default_prepare_batch

from fairmedfm_monai.data.class_labels import PrepareClasses, negative_class, read_class_label, read_class_labels

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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"label": ["finding", 0]}, [1, 1]),
        ({"label": []}, [0, 0]),
        ({"label": "Finding"}, [0, 1]),
        ({"prediction": [{"label": "no_finding", "score": 0.5}, {"label": "finding", "score": 0.4}]}, [1, 0]),
    ],
)
def test_independent_labels(tmp_path, content, expected):
    file = tmp_path / "case.json"
    file.write_text(json.dumps(content))
    assert read_class_labels(file, CLASSES) == expected
    _, label = PrepareClasses(CLASSES, multi_label=True)({"image": torch.zeros(1, 8), "label": [str(file)]})
    assert torch.equal(label, torch.tensor([expected], dtype=torch.float32))


@pytest.mark.parametrize("text", ["5", '{"label": ["other"]}', '{"label": {"a": 1}}', '{"prediction": [{"score": 1}]}'])
def test_what_is_no_list_of_labels_is_refused_with_its_file(tmp_path, text):
    file = tmp_path / "case.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"case\.json"):
        read_class_labels(file, CLASSES)


def test_independent_labels_of_folders_pass():
    batch = {"image": torch.rand(2, 8), "label": torch.tensor([[1.0, 0.0], [1.0, 1.0]])}
    assert torch.equal(PrepareClasses(CLASSES, multi_label=True)(batch, "cpu")[1], batch["label"])


def test_the_negative_class_is_the_first_that_is_not_positive():
    assert negative_class(["a", "b"], "b", False) == 0
    assert negative_class(["a", "b"], "a", False) == 1
    assert negative_class(["a", "b", "c"], None, False) == 0
    assert negative_class(["a", "b"], "b", True) is None
