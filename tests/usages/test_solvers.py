"""L-BFGS: the bundle's training step and the fit at once, against scikit-learn's logistic regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.engines import SupervisedTrainer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from fairmedfm_monai.usages.closure_update import ClosureUpdate
from fairmedfm_monai.usages.logistic import fit_logistic

PENALTY = 0.02


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 90)
    features = rng.normal(size=(90, 6)) + 0.8 * np.eye(3, 6)[label]
    return torch.tensor(features, dtype=torch.float32), torch.tensor(label)


def trainer(head: nn.Module, data: tuple[Tensor, Tensor], epochs: int) -> SupervisedTrainer:
    features, label = data
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=[{"image": features, "label": label}],
        network=head,
        optimizer=torch.optim.LBFGS(head.parameters(), lr=1, max_iter=100, line_search_fn="strong_wolfe"),
        loss_function=nn.CrossEntropyLoss(),
        iteration_update=ClosureUpdate(weight_decay=PENALTY),
        decollate=False,
    )


def test_the_trainers_step_reaches_the_optimum_of_scikit_learn(data: tuple[Tensor, Tensor]) -> None:
    features, label = (part.numpy() for part in data)
    reference = LogisticRegression(C=1 / (PENALTY * len(label)), tol=1e-10, max_iter=10_000).fit(features, label)
    head = nn.Linear(6, 3)
    engine = trainer(head, data, epochs=3)
    engine.run()
    np.testing.assert_allclose(head.weight.detach().numpy(), reference.coef_, atol=2e-3)
    found = head(data[0]).softmax(-1).detach().numpy()
    np.testing.assert_allclose(found, reference.predict_proba(features), atol=1e-3)
    assert engine.state.output["loss"].shape == ()
    assert engine.state.output["pred"].shape == (90, 3)


def test_a_training_that_goes_on_ends_where_an_uninterrupted_one_does(
    data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    def steps(head: nn.Module, epochs: int) -> SupervisedTrainer:
        engine = trainer(head, data, epochs)
        engine.optimizer = torch.optim.LBFGS(head.parameters(), lr=1, max_iter=3, line_search_fn="strong_wolfe")
        return engine

    torch.manual_seed(0)
    whole, first, second = (nn.Linear(6, 3) for _ in range(3))
    first.load_state_dict(whole.state_dict())
    steps(whole, 2).run()
    stopped = steps(first, 1)
    stopped.run()
    second.load_state_dict(first.state_dict())
    resumed = steps(second, 1)
    torch.save(stopped.optimizer.state_dict(), tmp_path / "progress.pt")
    resumed.optimizer.load_state_dict(torch.load(tmp_path / "progress.pt", weights_only=True))
    resumed.run()
    torch.testing.assert_close(second.weight, whole.weight)
    assert not torch.allclose(first.weight, whole.weight)


def test_the_fit_at_once_is_scikit_learns_on_standardised_features(data: tuple[Tensor, Tensor]) -> None:
    features, label = (part.numpy() for part in data)
    features = features * [1, 10, 100, 1, 1, 0] + 5  # unequal scales and a constant
    scaled = StandardScaler().fit_transform(features)
    reference = LogisticRegression(C=1 / (PENALTY * len(label)), tol=1e-10, max_iter=10_000).fit(scaled, label)
    inputs = torch.tensor(features, dtype=torch.float32)
    found = fit_logistic(inputs, data[1], 3, penalty=PENALTY).probabilities(inputs)
    np.testing.assert_allclose(found.numpy(), reference.predict_proba(scaled), atol=1e-4)


def test_separable_classes_need_a_penalty(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="`penalty` must be positive"):
        fit_logistic(*data, 3, penalty=0)
