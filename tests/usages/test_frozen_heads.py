"""MLP probe, prototypes and CLIP-Adapter: formulas, starting points, what trains."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.clip import CLIPEncoder
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.usages.classifier import Classifier
from fairmedfm_monai.usages.clip_adapter import CLIPAdapter
from fairmedfm_monai.usages.mlp_probe import MLPProbe
from fairmedfm_monai.usages.prototypes import Prototypes
from fairmedfm_monai.usages.zero_shot import ZeroShotClassifier

CLASSES = {"none": ["no nodule", "a clear lung"], "some": ["a nodule"], "mass": ["a large mass"]}
BACKGROUND = ["a medical image"]
TRAINED = {
    "mlp": {"0.weight", "0.bias", "3.weight", "3.bias"},
    "prototypes": {"prototypes"},
    "adapter": {"adapter.0.weight", "adapter.2.weight"},
}
BUILDERS: dict[str, Callable[[], Classifier]] = {
    "mlp": lambda: MLPProbe(DemoCLIP("tiny"), 3, hidden=8),
    "prototypes": lambda: Prototypes(DemoCLIP("tiny"), CLASSES),
    "adapter": lambda: CLIPAdapter(DemoCLIP("tiny"), CLASSES),
}


def adapter_of(encoder: CLIPEncoder) -> CLIPAdapter:
    return CLIPAdapter(encoder, CLASSES)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(3, 1, 128, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("usage", BUILDERS)
def test_exactly_the_head_trains_and_every_part_of_it_gets_a_gradient(usage: str, image: Tensor) -> None:
    network = BUILDERS[usage]()
    assert not any(parameter.requires_grad for parameter in network.encoder.parameters())
    before = copy.deepcopy(network.state_dict())
    features = network.encoder.encode_image(image)[network.feature]
    optimizer = torch.optim.AdamW(network.head.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network.train()(image), torch.tensor([0, 1, 2])).backward()
        assert all(parameter.grad is not None for parameter in network.head.parameters())
        optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"head.{name}" for name in TRAINED[usage]}
    assert torch.equal(network.encoder.encode_image(image)[network.feature], features)


@pytest.mark.parametrize("usage", BUILDERS)
@torch.no_grad()
def test_the_head_on_cached_features_gives_the_logits_of_the_images(usage: str, image: Tensor) -> None:
    network = BUILDERS[usage]().eval()
    cached = network.encoder.encode_image(image)[network.feature].numpy().astype(np.float32)
    assert network(image).shape == (3, 3)
    torch.testing.assert_close(network.head(torch.from_numpy(cached)), network(image))


@pytest.mark.parametrize("build", [lambda e: MLPProbe(e, 3), lambda e: Prototypes(e, CLASSES), adapter_of])
@torch.no_grad()
def test_torchscript_gives_the_same_logits(build: Callable[[CLIPEncoder], Classifier]) -> None:
    network = build(CLIPEncoder("ViT-B-32-quickgelu", "tiny")).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(torch.jit.script(network)(images), network(images))


@pytest.mark.parametrize("usage", BUILDERS)
def test_a_head_takes_its_part_of_the_whole_state_and_no_other(usage: str) -> None:
    trained, other = BUILDERS[usage](), BUILDERS[usage]()
    with torch.no_grad():
        for parameter in trained.head.parameters():
            parameter.add_(1)
    other.head.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, trained.head.state_dict()[name]) for name, value in other.head.state_dict().items())
    with pytest.raises(RuntimeError, match="stranger"):
        other.load_state_dict({**trained.state_dict(), "head.stranger": torch.zeros(1)}, strict=False)


def test_the_mlp_is_that_of_scikit_learn(image: Tensor) -> None:
    network = MLPProbe(DemoCLIP("tiny"), 3, hidden=8, dropout=0.5).eval()
    with torch.no_grad():
        features = network.encoder(image).double().numpy()
        found = network(image).softmax(-1)
    reference = MLPClassifier(hidden_layer_sizes=(8,), activation="relu", max_iter=1)
    with np.testing.suppress_warnings() as quiet:
        quiet.filter(UserWarning)
        reference.fit(features, [0, 1, 2])
    state = {name: value.double().numpy() for name, value in network.head.state_dict().items()}
    reference.coefs_ = [state["0.weight"].T, state["3.weight"].T]
    reference.intercepts_ = [state["0.bias"], state["3.bias"]]
    np.testing.assert_allclose(found.numpy(), reference.predict_proba(features), atol=1e-5)


def test_dropout_acts_in_training_only(image: Tensor) -> None:
    network = MLPProbe(DemoCLIP("tiny"), 3, hidden=64, dropout=0.5)
    assert not torch.equal(network.train()(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


@pytest.mark.parametrize("background", [[], BACKGROUND])
@pytest.mark.parametrize("build", [Prototypes, lambda *a, **k: CLIPAdapter(*a, ratio=0, **k)])
@torch.no_grad()
def test_before_training_logits_are_those_of_zero_shot(
    build: Callable[..., Classifier], background: list[str], image: Tensor
) -> None:
    expected = ZeroShotClassifier(DemoCLIP("tiny"), CLASSES, background=background)(image)
    found = build(DemoCLIP("tiny"), CLASSES, background=background)(image)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_prototypes_that_grow_change_nothing_but_others_do(image: Tensor) -> None:
    network = Prototypes(DemoCLIP("tiny"), CLASSES)
    before = network(image)
    network.head.prototypes.mul_(3)
    torch.testing.assert_close(network(image), before)
    network.head.prototypes[0] += network.head.prototypes[1]
    after = network(image)
    assert not torch.allclose(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[:, 1:], before[:, 1:])


@torch.no_grad()
def test_the_adapter_is_the_published_formula_on_embeddings_of_any_length() -> None:
    """Recomputed from equations 3 and 5 on CLIP's embedding before it is normalised, as the authors apply it."""
    encoder = CLIPEncoder("ViT-B-32-quickgelu", "tiny")
    network = CLIPAdapter(encoder, CLASSES, ratio=0.3, reduction=4)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    f = encoder.encode_image(images)["features"].double()
    assert (f.norm(dim=-1) - 1).abs().min() > 0.1
    first, second = (network.head.adapter[index].weight.double() for index in (0, 2))
    assert first.shape == (f.shape[1] // 4, f.shape[1])
    adapted = 0.3 * (f @ first.T).clamp(min=0).matmul(second.T).clamp(min=0) + 0.7 * f
    text = network.head.zero_shot.class_embeddings.double()
    scale = encoder.logit_terms()[0].double()
    expected = scale * (adapted / adapted.norm(dim=-1, keepdim=True)) @ text.T
    torch.testing.assert_close(network(images).double(), expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_independent_labels_are_told_apart_from_a_background(image: Tensor) -> None:
    """The sigmoid of a logit is the softmax over the class's and the background's similarity."""
    encoder = DemoCLIP("tiny")
    texts = encoder.encode_text(["a nodule", "a medical image"])
    pair = encoder.similarity(encoder.encode_image(image), texts).softmax(-1)[:, 0]
    found = ZeroShotClassifier(encoder, {"some": ["a nodule"]}, background=BACKGROUND)(image)
    torch.testing.assert_close(found.sigmoid()[:, 0], pair)


@torch.no_grad()
def test_a_model_with_a_bias_keeps_its_own_sigmoid(image: Tensor) -> None:
    class WithBias(DemoCLIP):
        def logit_terms(self) -> tuple[Tensor, Tensor]:
            scale, _ = super().logit_terms()
            return scale, torch.tensor(-2.5)

    plain = ZeroShotClassifier(WithBias("tiny"), CLASSES)(image)
    assert torch.equal(ZeroShotClassifier(WithBias("tiny"), CLASSES, background=BACKGROUND)(image), plain)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLPProbe(DemoCLIP("tiny"), 0), "`num_classes` must be at least 1"),
        (lambda: MLPProbe(DemoCLIP("tiny"), 2, hidden=0), "`hidden` must be at least 1"),
        (lambda: CLIPAdapter(DemoCLIP("tiny"), CLASSES, ratio=1.5), "`ratio` must be in"),
        (lambda: Prototypes(DemoCLIP("tiny"), {"a": []}), "non-empty list of prompts"),
        (lambda: CLIPAdapter(DemoCLIP("tiny"), {}), "it is empty"),
    ],
)
def test_what_cannot_be_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
