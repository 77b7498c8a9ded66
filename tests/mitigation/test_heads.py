"""Methods that look into the head: which layer they take, and what is left of it in model.pt."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairmedfm_monai.data import load_dataset
from fairmedfm_monai.data.dataset import DatasetInfo
from fairmedfm_monai.mitigation import make_method
from fairmedfm_monai.mitigation.heads import head_of, last_linear
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.usages import FullFinetune, LinearProbe, MergedState, MLPProbe, Prototypes, add_lora
from fairmedfm_monai.usages.slice_pooling import SlicePooling

BASE = nn.CrossEntropyLoss()
CODES = torch.tensor([0, 1, 0, -1])
TARGET = torch.tensor([0, 1, 1, 0])


@pytest.fixture(scope="module")
def info(xray_dir: Path) -> DatasetInfo:
    return load_dataset(xray_dir)


def with_lora(network: nn.Module) -> nn.Module:
    return add_lora(network, rank=2, alpha=4, dropout=0.0, target_modules=["fc1"])


def test_the_last_linear_layer_is_found() -> None:
    linear = nn.Linear(3, 2)
    mlp = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), linear)
    assert last_linear(linear) == ("", linear)
    assert last_linear(mlp) == ("2", linear)
    assert last_linear(SlicePooling(mlp, mode="attention", dim=5)) == ("classifier.2", linear)
    assert last_linear(SlicePooling(linear, mode="max", dim=3)) is None
    assert last_linear(nn.Sequential(linear, nn.ReLU())) is None
    network = LinearProbe(DemoCLIP("tiny"), 2)
    assert head_of(network) is head_of(network.head) is network.head
    assert head_of(with_lora(network)) is network.head


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ("linear_probe", "logits"),
        ("frozen_mlp", "input of the head's last linear layer"),
        ("lora", "input of the head's last linear layer"),
    ],
)
def test_laftr_reads_what_something_below_can_change(info: DatasetInfo, usage: str, expected: str) -> None:
    networks: dict[str, Any] = {
        "linear_probe": lambda: LinearProbe(DemoCLIP("tiny"), 2).head,
        "frozen_mlp": lambda: MLPProbe(DemoCLIP("tiny"), 2, hidden=7).head,
        "lora": lambda: with_lora(LinearProbe(DemoCLIP("tiny"), 2)),
    }
    network = networks[usage]()
    method: Any = make_method("laftr", info)
    loss = method.loss(BASE, network=network)
    assert method.describe()["representation"] == expected
    width = {"linear_probe": 2, "frozen_mlp": 7, "lora": DemoCLIP("tiny").feature_dim}[usage]
    assert loss.auditor.layers[0].in_features == width + 2  # the auditor sees the class, too
    sample = torch.randn(4, 1, 128, 128) if usage == "lora" else torch.randn(4, DemoCLIP("tiny").feature_dim)
    loss.set_codes(CODES)
    loss(network(sample), TARGET).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_the_auditor_trains_by_its_own_optimizer_and_skips_what_is_not_finite(info: DatasetInfo) -> None:
    network = nn.Linear(3, 2)
    method = make_method("laftr", info, options={"auditor_learning_rate": 0.1})
    loss: Any = method.loss(BASE, network=network)
    before = [parameter.clone() for parameter in loss.parameters()]

    def backward(factor: float) -> None:
        loss.set_codes(CODES)
        (factor * loss(network(torch.ones(4, 3)), TARGET)).backward()

    backward(float("inf"))
    method.step()
    assert all(map(torch.equal, before, loss.parameters()))
    backward(8.0)
    expected = [parameter.grad.clone() / 8 for parameter in loss.parameters()]
    seen: list[torch.Tensor] = []
    method._optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.extend(p.grad.clone() for p in optimizer.param_groups[0]["params"])
    )
    method.step(8.0)
    torch.testing.assert_close(seen, expected)
    assert not all(map(torch.equal, before, loss.parameters()))
    assert all(parameter.grad is None for parameter in loss.parameters())


@pytest.mark.parametrize("usage", ["linear_probe", "mlp_probe", "full_finetune", "lora"])
def test_domain_independent_leaves_a_plain_model_that_answers_with_the_mean(info: DatasetInfo, usage: str) -> None:
    kinds: dict[str, Any] = {"mlp_probe": MLPProbe, "full_finetune": FullFinetune}
    make = kinds.get(usage, LinearProbe)
    method = make_method("domain_independent", info, attributes="race")
    network: Any = method.prepare(make(DemoCLIP("tiny"), 2))
    source = network
    if usage == "lora":
        network = with_lora(network)
        source = MergedState(network)
    plain = make(DemoCLIP("tiny"), 2)
    names = list(plain.state_dict())
    with torch.no_grad():
        for parameter in head_of(network).parameters():
            parameter.add_(torch.randn_like(parameter))
    state = method.plain(source).state_dict()
    assert list(state) == names
    plain.load_state_dict(state)
    images = torch.randn(2, 1, 128, 128)
    torch.testing.assert_close(plain.eval()(images), network.eval()(images))
    heads: Any = head_of(network).train()
    last = heads if usage != "mlp_probe" else heads[-1]
    assert len(last.heads) == 3


def test_domain_independent_trains_each_layer_on_its_own_group(info: DatasetInfo) -> None:
    method = make_method("domain_independent", info)
    network: Any = method.prepare(LinearProbe(DemoCLIP("tiny"), 2)).head
    features = torch.randn(3, DemoCLIP("tiny").feature_dim)
    loss: Any = method.loss(BASE, network=network)
    loss.set_codes([0, 0, 0])
    loss(network.train()(features), TARGET[:3]).backward()
    one, other = network.heads
    assert one.weight.grad.abs().max() > 0
    assert other.weight.grad.abs().max() == 0


def test_domain_independent_refuses_other_heads_and_unseen_groups(info: DatasetInfo) -> None:
    encoder = DemoCLIP("tiny")
    method = make_method("domain_independent", info, attributes="race")
    with pytest.raises(ValueError, match="ends in a linear layer, which that of Prototypes"):
        method.prepare(Prototypes(encoder, info.prompts))
    with pytest.raises(ValueError, match="slices pooled by `max`"):
        method.prepare(LinearProbe(DemoCLIP("tiny"), 2, pooling="max", negative=0))
    table = info.table[(info.table["split"] != "train") | (info.table["race"] != "asian")]
    method = make_method("domain_independent", dataclasses.replace(info, table=table), attributes="race")
    with pytest.raises(ValueError, match="there is none of asian"):
        method.prepare(LinearProbe(DemoCLIP("tiny"), 2))
