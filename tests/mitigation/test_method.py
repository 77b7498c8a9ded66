from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairmedfm_monai.data import load_dataset
from fairmedfm_monai.data.dataset import DatasetInfo
from fairmedfm_monai.mitigation import METHODS, GroupSampler, make_method

BASE = nn.CrossEntropyLoss()


@pytest.fixture(scope="module")
def info(xray_dir: Path) -> DatasetInfo:
    return load_dataset(xray_dir)


def batch(info: DatasetInfo, count: int = 8) -> dict[str, Any]:
    cases = info.cases("train")[:count]
    return {"attributes": {name: [case["attributes"][name] for case in cases] for name in info.attributes}}


def test_erm_is_the_plain_loss_and_leaves_drawing_to_the_loader(info: DatasetInfo) -> None:
    method = make_method("erm", info)
    network = nn.Linear(2, 2)
    assert method.loss(BASE, network=network) is BASE
    assert method.sampler(info.cases("train")) is None
    assert method.prepare(network) is network
    assert method.plain(network) is network
    assert make_method("erm", dataclasses.replace(info, attributes={})).describe()["name"] == "erm"


def test_an_unknown_method_lists_all_with_their_meaning(info: DatasetInfo) -> None:
    with pytest.raises(ValueError, match="Did you mean 'group_dro'") as caught:
        make_method("groupdro", info)
    assert all(f"{name} ({meaning})" in str(caught.value) for name, (_, _, meaning) in METHODS.items())


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("erm", {"eta": 1.0}, "erm has no option 'eta' Its options: none"),
        ("group_dro", {"etta": 1.0}, r"did you mean 'eta'\? Its options: eta \(step size"),
        ("group_dro", {"eta": "much"}, "eta of group_dro cannot be 'much'"),
        ("group_dro", {"balanced": 1}, "balanced of group_dro cannot be 1"),
        ("resampling", {"by": "sex"}, "group_class: every class of every group"),
        ("fairness_constraint", {"statistic": "auc"}, "demographic_parity:"),
        ("fairness_constraint", {"positive_class": "cat"}, "one of no_finding, finding"),
        ("laftr", {"hidden": 1.5}, "hidden of laftr"),
        ("febs", {}, "it is for segmentation"),
    ],
)
def test_options_that_will_not_do_are_refused(
    info: DatasetInfo, name: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        make_method(name, info, options=options)


def test_classes_are_balanced_where_each_case_has_one(info: DatasetInfo) -> None:
    card = dataclasses.replace(info.card, multi_label=True)
    for name in ("resampling", "reweighting"):
        with pytest.raises(ValueError, match="independent labels: take by group"):
            make_method(name, dataclasses.replace(info, card=card), options={"by": "group_class"})


@pytest.mark.parametrize("by", ["group", "class", "group_class"])
def test_resampling_draws_by_what_is_asked(info: DatasetInfo, by: str) -> None:
    from fairmedfm_monai.mitigation.samplers import case_weights

    cases = info.cases("train")
    method = make_method("resampling", info, attributes="race", options={"by": by}, seed=4)
    sampler = method.sampler(cases)
    assert isinstance(sampler, GroupSampler)
    names = info.attributes["race"]
    codes = [names.index(case["attributes"]["race"]) for case in cases]
    expected = case_weights(codes, [case["label"] for case in cases], by=by)
    assert torch.equal(sampler.weights, expected)
    assert sampler.seed == 4
    assert method.loss(BASE) is BASE


def test_classes_alone_are_drawn_without_a_look_at_attributes(info: DatasetInfo) -> None:
    bare = dataclasses.replace(info, attributes={})
    method = make_method("resampling", bare, options={"by": "class"})
    assert isinstance(method.sampler(bare.cases("train")), GroupSampler)
    assert "attributes" not in method.describe()


def test_methods_that_draw_are_refused_by_solvers_that_need_the_whole_set(info: DatasetInfo) -> None:
    cases = info.cases("train")
    for name in ("resampling", "group_dro", "laftr"):
        with pytest.raises(ValueError, match="take another `solver`"):
            make_method(name, info).sampler(cases, whole_set=True)
    for name, options in [("reweighting", {}), ("fairness_constraint", {}), ("group_dro", {"balanced": False})]:
        assert make_method(name, info, options=options).sampler(cases, whole_set=True) is None


@pytest.mark.parametrize("name", ["reweighting", "group_dro", "fairness_constraint", "laftr"])
@pytest.mark.parametrize("attributes", ["sex", ["sex", "age"]])
def test_losses_take_the_codes_of_a_batch(info: DatasetInfo, name: str, attributes: Any) -> None:
    method = make_method(name, info, attributes=attributes)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    loss: Any = method.loss(BASE, network=network)
    target = torch.tensor([case["label"] for case in info.cases("train")[:8]])
    loss.set_codes(method.codes(batch(info)))
    value = loss(network(torch.randn(8, 3)), target)
    value.backward()
    method.step()
    assert torch.isfinite(value)


def test_the_losses_know_the_training_split(info: DatasetInfo) -> None:
    counts = make_method("reweighting", info, attributes="race").describe()["groups"]
    train = info.table[info.table["split"] == "train"]["race"].value_counts()
    assert counts == {name: int(train.get(name, 0)) for name in info.attributes["race"]}
    loss: Any = make_method("reweighting", info, attributes="race").loss(BASE)
    seen = [name for name in counts if counts[name]]
    expected = {name: len(info.cases("train")) / (len(seen) * counts[name]) for name in seen}
    for code, name in enumerate(counts):
        assert float(loss.weights[code]) == pytest.approx(expected.get(name, 1.0))
    margin: Any = make_method("group_dro", info, options={"adjustment": 2.0}).loss(BASE)
    sizes = train_sizes(info)
    torch.testing.assert_close(margin.margin, 2 / torch.tensor(sizes).sqrt())


def train_sizes(info: DatasetInfo) -> list[float]:
    train = info.table[info.table["split"] == "train"]["sex"]
    return [float((train == name).sum()) for name in info.attributes["sex"]]


def test_equal_opportunity_is_about_the_positive_class_of_the_card(info: DatasetInfo) -> None:
    for name, option in [("fairness_constraint", "statistic"), ("laftr", "criterion")]:
        loss: Any = make_method(name, info, options={option: "equal_opportunity"}).loss(BASE, network=nn.Linear(2, 2))
        assert loss.positive == info.classes.index(str(info.positive_class))
        loss = make_method(name, info).loss(BASE, network=nn.Linear(2, 2))
        assert loss.positive is None


def test_the_state_goes_on_with_the_same_method_and_groups_only(info: DatasetInfo) -> None:
    first = make_method("group_dro", info, options={"eta": 1.0})
    loss: Any = first.loss(BASE)
    loss.set_codes(first.codes(batch(info)))
    loss(torch.randn(8, 2), torch.zeros(8, dtype=torch.long))
    second = make_method("group_dro", info)
    other: Any = second.loss(BASE)
    second.load_state_dict(first.state_dict())
    assert torch.equal(other.q, loss.q)
    assert other.q[0] != 0.5
    with pytest.raises(ValueError, match="mitigation 'group_dro', this one is 'erm'"):
        make_method("erm", info).load_state_dict(first.state_dict())
    third = make_method("group_dro", info, attributes="race")
    third.loss(BASE)
    with pytest.raises(ValueError, match="of other groups or options"):
        third.load_state_dict(first.state_dict())


def test_a_group_without_training_cases_is_warned_of(info: DatasetInfo, caplog: pytest.LogCaptureFixture) -> None:
    table = info.table[(info.table["split"] != "train") | (info.table["race"] != "asian")]
    method = make_method("group_dro", dataclasses.replace(info, table=table), attributes="race")
    assert "no training case in group asian" in caplog.text
    assert method.describe()["groups"]["asian"] == 0


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("febs")])
def test_descriptions_are_json_and_say_what_inference_needs(info: DatasetInfo, name: str) -> None:
    import json

    about = make_method(name, info).describe()
    assert json.loads(json.dumps(about)) == about
    assert about["needs_attribute_at_inference"] is False
    assert about["text"].startswith(name)
    assert "needs no attribute at inference" in about["text"]


def test_batches_without_attributes_are_refused(info: DatasetInfo) -> None:
    with pytest.raises(ValueError, match="the batch holds image"):
        make_method("group_dro", info).codes({"image": torch.zeros(2)})
