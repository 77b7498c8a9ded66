"""Zero-shot classification."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from open_clip import build_zero_shot_classifier, get_tokenizer
from torch import Tensor

from fairmedfm_monai.networks.encoders.clip import CLIPEncoder
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.usages.classifier import Classifier
from fairmedfm_monai.usages.clip_adapter import CLIPAdapter
from fairmedfm_monai.usages.prototypes import Prototypes
from fairmedfm_monai.usages.zero_shot import ZeroShotClassifier

TEMPLATES = ["a chest X-ray with {}", "radiograph showing {}", "{}"]
NAMES = ["no finding", "a nodule", "effusion"]
CLASSES = {name: [template.format(name) for template in TEMPLATES] for name in NAMES}


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_prompt_ensembles_are_those_of_open_clip() -> None:
    encoder = CLIPEncoder("ViT-B-32", "tiny")

    class Reference:
        """What open_clip's own function asks of a model."""

        @staticmethod
        def encode_text(tokens: Tensor, normalize: bool = False) -> Tensor:
            return torch.nn.functional.normalize(encoder.text(tokens), dim=-1) if normalize else encoder.text(tokens)

    templates = [lambda name, t=template: t.format(name) for template in TEMPLATES]
    expected = build_zero_shot_classifier(Reference(), get_tokenizer("ViT-B-32"), NAMES, templates, device="cpu")
    classifier = ZeroShotClassifier(encoder, CLASSES)
    torch.testing.assert_close(classifier.head.class_embeddings, expected.T, atol=1e-6, rtol=0)


@torch.no_grad()
def test_one_prompt_per_class_is_the_similarity_of_the_model(image: Tensor) -> None:
    encoder = CLIPEncoder("ViT-B-32", "tiny")
    expected = encoder.similarity(encoder.encode_image(image), encoder.encode_text(NAMES))
    classifier = ZeroShotClassifier(encoder, {name: [name] for name in NAMES})
    torch.testing.assert_close(classifier(image), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_head_on_cached_embeddings_gives_the_logits_of_the_images(image: Tensor) -> None:
    classifier = ZeroShotClassifier(CLIPEncoder("ViT-B-32", "tiny"), CLASSES)
    cached = classifier.encoder.encode_image(image)["zero_shot"].numpy().astype(np.float32)
    torch.testing.assert_close(classifier.head(torch.from_numpy(cached)), classifier(image))


def test_a_checkpoint_carries_the_classes_so_that_other_prompts_do_not_matter(image: Tensor) -> None:
    original = ZeroShotClassifier(CLIPEncoder("ViT-B-32", "tiny"), CLASSES)
    rebuilt = ZeroShotClassifier(CLIPEncoder("ViT-B-32", "tiny", seed=1), {name: ["other"] for name in NAMES})
    assert not torch.equal(rebuilt(image), original(image))
    rebuilt.load_state_dict(original.state_dict())
    assert torch.equal(rebuilt(image), original(image))


def test_nothing_is_trainable_and_torchscript_gives_the_same_logits(image: Tensor) -> None:
    classifier = ZeroShotClassifier(CLIPEncoder("ViT-B-32", "tiny"), CLASSES).train()
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(module.training for module in classifier.modules())
    torch.testing.assert_close(torch.jit.script(classifier)(image), classifier(image))


@pytest.mark.parametrize("build", [ZeroShotClassifier, Prototypes, CLIPAdapter])
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "it is empty"),
        ({"a": []}, r"the prompts of 'a' are \[\]"),
        ({"a": ["x"], "b": "a string"}, "the prompts of 'b' are 'a string'"),
        ({"a": ["x"], "b": ["y", " "]}, r"the prompts of 'b' are \['y', ' '\]"),
        ({"a": ["x"], "b": None}, "the prompts of 'b' are None"),
    ],
)
def test_classes_without_prompts_are_refused(
    build: Callable[..., Classifier], classes: dict[str, list[str]], message: str
) -> None:
    encoder = DemoCLIP("tiny")
    encoder.encode_text = lambda texts: pytest.fail("nothing may be encoded")
    with pytest.raises(ValueError, match=f"`classes` must map each class to a non-empty list of prompts.*{message}"):
        build(encoder, classes)
