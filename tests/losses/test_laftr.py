from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairmedfm_monai.losses import Auditor, LAFTRLoss
from fairmedfm_monai.losses.laftr import audit_loss, reverse_gradient
from tests.losses.toy import normal

STRENGTH = 0.6


def paper_objective(p, groups, labels, criterion):
    """L_adv of Madras et al. for two groups, from the auditor's probabilities p of group 1."""
    if criterion == "demographic_parity":
        cells, whole = [groups == a for a in (0, 1)], 1
    elif criterion == "equalised_odds":
        cells, whole = [(groups == a) & (labels == y) for a in (0, 1) for y in (0, 1)], 2
    else:
        cells, whole = [(groups == a) & (labels == 1) for a in (0, 1)], 1
    return whole - sum(np.abs(p[cell] - groups[cell]).mean() for cell in cells), len(cells), whole


class Toy:
    """A linear encoder, a linear head and an auditor on 24 cases of two groups."""

    def __init__(self, criterion):
        torch.manual_seed(0)
        self.encoder, self.head = nn.Linear(5, 3).double(), nn.Linear(3, 2).double()
        self.network = nn.Sequential(self.encoder, nn.Tanh(), self.head)
        self.loss = LAFTRLoss(
            nn.CrossEntropyLoss(), 2, dim=3, num_labels=2, criterion=criterion, positive=1, strength=STRENGTH, hidden=4
        ).double()
        self.loss.watch(self.head)
        self.inputs = normal(24, 5, seed=1)
        self.codes = (normal(24, seed=2) > 0).long()
        self.target = (normal(24, seed=3) > 0).long()
        self.criterion = criterion

    def value(self):
        self.loss.set_codes(self.codes)
        return self.loss(self.network(self.inputs), self.target)

    def parts(self):
        """Plain loss and mean error of the auditor over the cells, without the code under test."""
        with torch.no_grad():
            z = self.encoder(self.inputs).tanh()
            plain = float(nn.functional.cross_entropy(self.head(z), self.target))
            labels = nn.functional.one_hot(self.target, 2).double()
            seen = z if self.criterion == "demographic_parity" else torch.cat([z, labels], 1)
            p = self.loss.auditor.layers(seen).softmax(1)[:, 1].numpy()
        objective, cells, whole = paper_objective(p, self.codes.numpy(), self.target.numpy(), self.criterion)
        return plain, (whole - objective) / cells


def differences(toy, parameter, step=1e-6):
    """Central differences of both parts by each entry of a parameter."""
    flat = parameter.data.view(-1)
    found = []
    for place in range(len(flat)):
        old, ends = float(flat[place]), []
        for sign in (1, -1):
            flat[place] = old + sign * step
            ends.append(np.array(toy.parts()))
        flat[place] = old
        found.append((ends[0] - ends[1]) / (2 * step))
    return np.array(found).T


@pytest.mark.parametrize("criterion", ["demographic_parity", "equal_opportunity", "equalised_odds"])
class TestGradients:
    def test_the_value_is_the_plain_loss_and_the_papers_audit(self, criterion):
        toy = Toy(criterion)
        assert float(toy.value().detach()) == pytest.approx(sum(toy.parts()), rel=1e-9)

    def test_finite_differences_turn_round_before_the_encoder_and_not_in_the_auditor(self, criterion):
        toy = Toy(criterion)
        toy.value().backward()
        for parameter in toy.encoder.parameters():
            plain, audit = differences(toy, parameter)
            assert np.abs(audit).max() > 1e-4
            np.testing.assert_allclose(parameter.grad.flatten(), plain - STRENGTH * audit, rtol=1e-5, atol=1e-8)
        for parameter in toy.head.parameters():
            plain, audit = differences(toy, parameter)
            np.testing.assert_allclose(parameter.grad.flatten(), plain, rtol=1e-5, atol=1e-8)
        for parameter in toy.loss.auditor.parameters():
            _, audit = differences(toy, parameter)
            np.testing.assert_allclose(parameter.grad.flatten(), audit, rtol=1e-5, atol=1e-8)


class Signal:
    """Pictures of a sort: the group stands in one feature, the class in another, the rest is noise."""

    def __init__(self, seed, count=400):
        self.codes = (normal(count, seed=seed) > 0).long()
        self.target = (normal(count, seed=seed + 1) > 0).long()
        self.inputs = normal(count, 6, seed=seed + 2).float()
        self.inputs[:, 0] += 4 * self.codes - 2
        self.inputs[:, 1] += 4 * self.target - 2

    @property
    def labels(self):
        return nn.functional.one_hot(self.target, 2)


def balanced_accuracy(guess, codes):
    right = guess.argmax(1) == codes
    return float(np.mean([right[codes == group].float().mean() for group in codes.unique()]))


def learn_to_audit(encoder, steps=200):
    """Balanced accuracy, on new cases, of an auditor that learns on what an encoder gives."""
    known, new = Signal(0), Signal(50)
    torch.manual_seed(1)
    auditor = Auditor(4, 2, num_labels=2, hidden=32)
    optimizer = torch.optim.Adam(auditor.parameters(), lr=0.01)
    with torch.no_grad():
        z, z_new = encoder(known.inputs), encoder(new.inputs)
    for _ in range(steps):
        optimizer.zero_grad()
        audit_loss(auditor(z, known.labels), known.codes, known.labels).backward()
        optimizer.step()
    return balanced_accuracy(auditor(z_new, new.labels), new.codes)


def train(strength, steps=300):
    """An encoder and a head, trained with an auditor; accuracy of the class and of that auditor on new cases."""
    torch.manual_seed(0)
    encoder, head = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), nn.Linear(4, 2)
    network = nn.Sequential(encoder, head)
    loss = LAFTRLoss(nn.CrossEntropyLoss(), 2, dim=4, num_labels=2, strength=strength, hidden=32)
    loss.watch(head)
    optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=0.01)
    known, new = Signal(0), Signal(50)
    for _ in range(steps):
        optimizer.zero_grad()
        loss.set_codes(known.codes)
        loss(network(known.inputs), known.target).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = balanced_accuracy(network(new.inputs), new.target)
        audited = balanced_accuracy(loss.auditor(encoder(new.inputs), new.labels), new.codes)
    return accuracy, audited


class TestTheGame:
    def test_the_auditor_learns_the_group_where_it_can_be_seen_and_not_where_it_cannot(self):
        class Pick(nn.Module):
            def __init__(self, *columns):
                super().__init__()
                self.columns = list(columns)

            def forward(self, inputs):
                return inputs[:, self.columns]

        assert learn_to_audit(Pick(0, 2, 3, 4)) > 0.9
        assert 0.4 < learn_to_audit(Pick(1, 2, 3, 4)) < 0.6

    def test_an_encoder_trained_against_it_hides_the_group_and_keeps_the_class(self):
        accuracy, audited = train(strength=0.0)
        assert min(accuracy, audited) > 0.9  # the auditor trains all the same; nobody hides from it
        accuracy, audited = train(strength=1.0)
        assert accuracy > 0.9
        assert audited < 0.6  # chance is 0.5


class TestCells:
    def test_a_rare_cell_counts_as_much_as_a_common_one(self):
        codes = torch.tensor([0] * 9 + [1])
        logits = torch.zeros(10, 2)
        logits[:, 0] = 50  # all are taken for group 0
        assert float(audit_loss(logits, codes, torch.ones(10, 1))) == pytest.approx(0.5)

    @pytest.mark.parametrize("groups", [2, 3, 5])
    def test_chance_is_one_minus_one_over_the_groups(self, groups):
        codes = torch.arange(20) % groups
        assert float(audit_loss(torch.zeros(20, groups), codes, torch.ones(20, 1))) == pytest.approx(1 - 1 / groups)

    def test_an_auditor_without_hidden_layer_could_not_learn_this(self):
        """Exclusive or of two features: the reason for the non-linearity."""
        inputs = normal(400, 2, seed=0).float().sign()
        codes = (inputs[:, 0] != inputs[:, 1]).long()
        torch.manual_seed(0)
        auditor = Auditor(2, 2, hidden=16)
        optimizer = torch.optim.Adam(auditor.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            audit_loss(auditor(inputs, torch.ones(400, 1)), codes, torch.ones(400, 1)).backward()
            optimizer.step()
        assert balanced_accuracy(auditor(inputs, torch.ones(400, 1)), codes) > 0.95


def test_equalised_odds_looks_at_each_of_several_classes():
    codes, target = torch.arange(24) % 2, torch.arange(24) % 3
    loss = LAFTRLoss(nn.CrossEntropyLoss(), 2, dim=3, num_labels=3).double()
    pred = normal(24, 3, seed=0)
    loss.set_codes(codes)
    found = loss(pred, target) - nn.functional.cross_entropy(pred, target)
    p = loss.auditor(pred, nn.functional.one_hot(target, 3)).softmax(1)[torch.arange(24), codes]
    cells = [(1 - p[(codes == group) & (target == label)]).mean() for group in range(2) for label in range(3)]
    torch.testing.assert_close(found, torch.stack(cells).mean())


class TestRepresentation:
    def test_without_a_module_to_watch_the_auditor_reads_the_logits(self):
        loss = LAFTRLoss(nn.CrossEntropyLoss(), 2, dim=2, num_labels=2)
        pred = torch.zeros(3, 2, requires_grad=True)
        loss.set_codes([0, 1, -1])
        loss(pred, torch.tensor([0, 1, 1])).backward()
        assert pred.grad.abs().max() > 0

    @pytest.mark.parametrize("shape", [(4, 6, 3), (4, 3, 5, 5), (4, 3, 2, 2, 2)])
    def test_slices_and_maps_are_averaged(self, shape):
        loss = LAFTRLoss(lambda pred, _: pred.mean(), 2, dim=3, num_labels=0, criterion="demographic_parity")
        seen = nn.Identity()
        loss.watch(seen)
        maps = normal(*shape, seed=0).float().requires_grad_()
        loss.set_codes([0, 1, 0, 1])
        loss(seen(maps), torch.zeros(shape)).backward()
        assert maps.grad.isfinite().all()

    def test_a_frozen_representation_is_refused(self):
        head = nn.Linear(3, 2)
        loss = LAFTRLoss(nn.CrossEntropyLoss(), 2, dim=3, num_labels=2)
        loss.watch(head)
        loss.set_codes([0, 1])
        with pytest.raises(ValueError, match=r"nothing before it trains.*watch nothing"):
            loss(head(torch.zeros(2, 3)), torch.tensor([0, 1]))

    def test_a_representation_serves_one_batch_only_and_validation_leaves_none(self):
        head = nn.Linear(3, 2)
        loss = LAFTRLoss(nn.CrossEntropyLoss(), 2, dim=3, num_labels=2)
        loss.watch(head)
        with torch.no_grad():
            pred = head(torch.zeros(2, 3))
        loss.set_codes([0, 1])
        with pytest.raises(ValueError, match="was not called with this batch"):
            loss(pred, torch.tensor([0, 1]))

    def test_the_auditor_starts_alike_in_every_process_and_leaves_the_random_state(self):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        first, second = (LAFTRLoss(nn.CrossEntropyLoss(), 2, dim=3, num_labels=2, seed=4) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)


def test_reversal_changes_the_gradient_alone():
    tensor = torch.ones(3, requires_grad=True)
    turned = reverse_gradient(tensor, 0.5)
    assert torch.equal(turned, tensor)
    turned.sum().backward()
    assert tensor.grad.tolist() == [-0.5] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "odds"}, "`criterion` must be one of demographic_parity, equal_opportunity, equalised_odds"),
        ({"strength": -1.0}, "`strength` must not be negative"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LAFTRLoss(nn.CrossEntropyLoss(), 2, dim=3, num_labels=2, **options)


def test_equal_opportunity_needs_its_class():
    loss = LAFTRLoss(nn.CrossEntropyLoss(), 2, dim=2, num_labels=2, criterion="equal_opportunity")
    loss.set_codes([0, 1])
    with pytest.raises(ValueError, match="needs `positive`"):
        loss(torch.zeros(2, 2), torch.tensor([0, 1]))
