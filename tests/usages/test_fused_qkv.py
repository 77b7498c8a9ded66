"""Which outputs of a fused layer are queries, keys and values is told by what attention does with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks.blocks.selfattention import SABlock
from segment_anything.modeling.image_encoder import Attention as SamAttention
from timm.models.tiny_vit import Attention as TinyAttention
from torch import Tensor, nn

from fairmedfm_monai.usages.fused_qkv import SplitQKV, fuse_qkv, split_qkv


def sam() -> tuple[nn.Module, Tensor]:
    return SamAttention(16, num_heads=2), torch.randn(1, 3, 3, 16)


def tiny_vit() -> tuple[nn.Module, Tensor]:
    return TinyAttention(16, 4, num_heads=4, attn_ratio=1, resolution=(3, 3)), torch.randn(1, 9, 16)


def monai_vit() -> tuple[nn.Module, Tensor]:
    return SABlock(16, 2, qkv_bias=True), torch.randn(1, 9, 16)


@pytest.mark.parametrize("make", [sam, tiny_vit, monai_vit])
class TestLayouts:
    def test_taking_apart_and_putting_together_changes_nothing(
        self, make: Callable[[], tuple[nn.Module, Tensor]]
    ) -> None:
        attention, tokens = make()
        expected, state = attention(tokens), {name: tensor.clone() for name, tensor in attention.state_dict().items()}
        assert split_qkv(attention, ["qkv"]) == ["qkv.q", "qkv.v"]
        assert isinstance(attention.qkv, SplitQKV)
        torch.testing.assert_close(attention(tokens), expected)
        fuse_qkv(attention)
        assert list(attention.state_dict()) == list(state)
        assert all(torch.equal(tensor, state[name]) for name, tensor in attention.state_dict().items())

    def test_a_constant_in_keys_changes_nothing_and_one_in_queries_does(
        self, make: Callable[[], tuple[nn.Module, Tensor]]
    ) -> None:
        attention, tokens = make()
        split_qkv(attention, ["qkv"])
        expected = attention(tokens)
        shift = torch.randn(attention.qkv.k.out_features)
        with torch.no_grad():
            attention.qkv.k.bias += shift  # the same for all keys: softmax does not see it
            torch.testing.assert_close(attention(tokens), expected, atol=1e-5, rtol=1e-4)
            attention.qkv.k.bias -= shift
            attention.qkv.q.bias += 5 * shift
            assert (attention(tokens) - expected).abs().max() > 1e-3

    def test_without_values_only_the_bias_of_the_projection_is_left(
        self, make: Callable[[], tuple[nn.Module, Tensor]]
    ) -> None:
        attention, tokens = make()
        split_qkv(attention, ["qkv"])
        nn.init.zeros_(attention.qkv.v.weight)
        nn.init.zeros_(attention.qkv.v.bias)
        projection = attention.proj if hasattr(attention, "proj") else attention.out_proj
        torch.testing.assert_close(attention(tokens), projection.bias.expand_as(tokens))


def test_layers_that_are_apart_stay_as_they_are() -> None:
    network = nn.ModuleDict({"q_proj": nn.Linear(2, 2), "v_proj": nn.Linear(2, 2)})
    assert split_qkv(network, ["q_proj", "v_proj"]) == ["q_proj", "v_proj"]
