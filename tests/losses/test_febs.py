from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch import nn

from fairmedfm_monai.losses import FEBSLoss
from fairmedfm_monai.losses.febs import dice_terms, published_scaling, scaling
from tests.losses import febs_cases
from tests.losses.toy import normal
from tests.networks import parity

MIXTURES = {"samed": (0.8, 0.2), "transunet": (0.5, 0.5)}


def loss_and_gradient(case, **options):
    logits, target, codes = febs_cases.tensors(case)
    logits.requires_grad_()
    loss = FEBSLoss(case.groups, gamma=case.gamma, **options)
    loss.set_codes(codes)
    value = loss(logits, target)
    return value, torch.autograd.grad(value, logits)[0]


DICE = {"lambda_dice": 1.0, "lambda_ce": 0.0, "published": True}


def compare(found):
    """Compare outputs of the published form with the recorded ones of those names."""
    recorded = parity.read("febs")["outputs"]
    parity.compare({"outputs": {key: recorded[key] for key in found}}, found, tolerance=2e-6)


@pytest.mark.parametrize("name", febs_cases.CASES)
def test_the_published_form_has_the_recorded_gradients_of_the_published_code(name):
    case = febs_cases.CASES[name]
    total, dice = (loss_and_gradient(case, **options)[1] for options in ({"published": True}, DICE))
    compare({f"{name}/gradient": total, f"{name}/dice_gradient": dice})


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_published_form_has_the_recorded_losses_of_the_published_code(mixture):
    lambda_dice, lambda_ce = MIXTURES[mixture]
    mixed = {"lambda_dice": lambda_dice, "lambda_ce": lambda_ce, "published": True}
    losses = [
        [loss_and_gradient(case, **options)[0].item() for options in (DICE, mixed)]
        for case in febs_cases.CASES.values()
    ]
    compare({f"{mixture}/losses": torch.tensor(losses)})


def reference_scales(logits, target, codes, gamma):
    """The corrected rule, case by case in numpy."""
    p = logits.double().softmax(1).numpy()
    t = np.stack([target.numpy() == label for label in range(p.shape[1])], 1).astype(float)
    codes = codes.numpy()
    errors = {}
    for group in set(codes[codes >= 0].tolist()):
        errors[group] = 1e-5
        for label in range(p.shape[1]):
            q, u = p[codes == group, label], t[codes == group, label]
            errors[group] += 1 - (2 * (q * u).sum() + 1e-5) / ((q**2).sum() + (u**2).sum() + 1e-5)
    best = min(errors.values(), default=1)
    return [1 if c < 0 else math.tanh((best / errors[c]) ** gamma) / math.tanh(1) for c in codes]


def terms_of(case):
    logits, target, codes = febs_cases.tensors(case)
    masks = nn.functional.one_hot(target, febs_cases.CLASSES).movedim(-1, 1)
    return dice_terms(logits.softmax(1), masks), codes


@pytest.mark.parametrize("name", febs_cases.CASES)
def test_scales_equal_an_independent_reference(name):
    case = febs_cases.CASES[name]
    terms, codes = terms_of(case)
    expected = reference_scales(*febs_cases.tensors(case), case.gamma)
    found = scaling(terms, codes, case.groups, gamma=case.gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert float(found.max()) == 1


class TestGroups:
    def test_an_absent_group_changes_nothing_and_in_the_published_form_takes_all_gradient(self):
        case = febs_cases.CASES["absent_group"]
        value, gradient = loss_and_gradient(case, lambda_ce=0.0)
        renumbered = febs_cases.Case(tuple(code // 2 for code in case.codes), 2, seed=case.seed)
        assert torch.equal(value, loss_and_gradient(renumbered, lambda_ce=0.0)[0])
        assert gradient.abs().max() > 0
        assert loss_and_gradient(case, lambda_ce=0.0, published=True)[1].abs().max() == 0

    @pytest.mark.parametrize("codes", [(0, 0, 0), (-1, -1, -1)])
    def test_one_group_and_none_give_monais_dice_and_cross_entropy(self, codes):
        logits, target, _ = febs_cases.tensors(febs_cases.Case(codes, 1))
        base = DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True, batch=True, lambda_dice=0.7, lambda_ce=0.4)
        loss = FEBSLoss.in_place_of(base, 1)
        for form in (target, target[:, None], nn.functional.one_hot(target, 3).movedim(-1, 1)):
            loss.set_codes(codes)
            torch.testing.assert_close(loss(logits, form), base(logits, target[:, None]))

    def test_equal_groups_have_scale_1(self):
        terms, _ = terms_of(febs_cases.Case((0, 0), 1))
        twice, codes = torch.cat([terms, terms]), torch.tensor([0, 0, 1, 1])
        torch.testing.assert_close(scaling(twice, codes, 2, gamma=1.0), torch.ones(4))
        torch.testing.assert_close(published_scaling(twice, codes, 2, gamma=1.0), torch.full((4,), math.tanh(1)))

    def test_a_group_without_error_leaves_the_other_its_gradient(self):
        terms, _ = terms_of(febs_cases.Case((0, 0), 1))
        terms[0] = torch.tensor([50.0, 50.0, 50.0])
        found = scaling(terms, torch.tensor([0, 1]), 2, gamma=1.0)
        assert float(found[0]) == 1
        assert 0 < float(found[1]) < 1e-3


class TestShapes:
    def test_channels_by_themselves(self):
        base = DiceCELoss(sigmoid=True, squared_pred=True, batch=True)
        logits, target = normal(4, 1, 6, 6, seed=0), (normal(4, 1, 6, 6, seed=1) > 0).double()
        loss = FEBSLoss.in_place_of(base, 2)
        loss.set_codes([0, 0, 0, 0])
        torch.testing.assert_close(loss(logits, target), base(logits, target))

    def test_volumes(self):
        base = DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True, batch=True)
        logits, target = normal(2, 3, 4, 5, 6, seed=0), (normal(2, 1, 4, 5, 6, seed=1).abs() * 2).long().clamp(max=2)
        loss = FEBSLoss.in_place_of(base, 1)
        loss.set_codes([0, 0])
        torch.testing.assert_close(loss(logits, target), base(logits, target))

    def test_masks_of_another_size_are_refused(self):
        loss = FEBSLoss(1)
        loss.set_codes([0])
        with pytest.raises(ValueError, match="do not belong together"):
            loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 5, 5))


@pytest.mark.parametrize("base", [nn.CrossEntropyLoss(), DiceCELoss()])
def test_other_losses_cannot_be_replaced(base):
    with pytest.raises(ValueError, match="is for segmentation with MONAI's DiceCELoss"):
        FEBSLoss.in_place_of(base, 2)


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"gamma": -1.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must"):
        FEBSLoss(2, **options)
