"""A volume with several labels and kinds of prompts in one pass, against the loop that encodes for every prompt.

    python scripts/bench/prompted_volume.py                       # demo_sam, 8 labels x 4 kinds, about a minute
    python scripts/bench/prompted_volume.py --fm sam --slices 2   # SAM ViT-B with random weights, minutes

The loop is what one writes with a predictor that takes an image and a prompt: for each slice, label and kind it embeds
the slice and decodes the prompt. It uses the same network, prompts and decoder as the one pass, and its masks are
compared with those of the one pass, so that the ratio is between equal results. The encoder's and the decoder's shares
of the one pass are wall time inside the network's own calls; "metrics" is the scoring of all masks as an evaluation
does it (surface distances included); the rest is reading prompts and putting masks together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Hashable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import MetaTensor

from fairmedfm_monai.handlers.masks import segmentation_values
from fairmedfm_monai.inferers import PromptedInferer
from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.networks.segmenters.sam import SamSegmenter
from fairmedfm_monai.transforms import PromptsToMetad, SimulatePromptsd

KINDS = ("box", "center", "point", "points")
WEIGHTS = {"demo_sam": "shipped", "sam": "random"}
NETWORKS: dict[str, Callable[[], PromptableSegmenter]] = {
    "demo_sam": DemoSAM,
    "sam": lambda: SamSegmenter("vit_b", "random"),
}


def scene(slices: int, labels: int, size: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, int]]:
    """A noisy volume (1, size, size, slices) in 0..255, a mask with a disc per label on each slice, and the labels."""
    rng = np.random.default_rng(0)
    mask = np.zeros((size, size, slices), dtype=np.uint8)
    rows, columns = np.indices((size, size))
    for value in range(1, labels + 1):
        angle = 2 * np.pi * value / labels
        centre = size / 2 + size / 3 * np.array([np.sin(angle), np.cos(angle)])
        mask[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (size / 12) ** 2] = value
    image = np.clip(rng.normal(80, 30, mask.shape) + 15 * mask, 0, 255).astype(np.float32)
    names = {f"label_{value}": value for value in range(1, labels + 1)}
    return torch.from_numpy(image)[None], torch.from_numpy(mask)[None], names


class Clock:
    """Wall time spent in some calls of a network."""

    def __init__(self, network: PromptableSegmenter, *names: str) -> None:
        self.seconds = dict.fromkeys(names, 0.0)
        for name in names:
            setattr(network, name, self._timed(name, getattr(network, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - start
            return result

        return timed


def encode_per_prompt(
    image: torch.Tensor,
    network: PromptableSegmenter,
    prompts: list[dict[str, Any]],
    channels: dict[tuple[str, str], int],
) -> torch.Tensor:
    """Masks (channels, H, W, D) of the loop: every prompt encodes its slice anew."""
    masks = torch.zeros((len(channels), *image.shape[1:]), dtype=torch.uint8)
    for prompt in prompts:
        coords = torch.tensor(prompt["coords"])
        index = int(coords[0, 2])
        picture = image[..., index].transpose(-1, -2).expand(3, -1, -1)[None]
        labels = torch.tensor(prompt["point_labels"])
        logits = network.decode(network.embed(picture), coords[None, None, :, :2].float(), labels[None, None])[0]
        masks[channels[prompt["kind"], prompt["label"]], ..., index] = (logits[0, 0] > 0).T.to(torch.uint8)
    return masks


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fm", choices=list(NETWORKS), default="demo_sam")
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--labels", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="pixels along an edge of a slice")
    options = parser.parse_args()
    network = NETWORKS[options.fm]()
    image, mask, names = scene(options.slices, options.labels, options.size)
    case: dict[Hashable, Any] = {"image": MetaTensor(image), "label": MetaTensor(mask), "case_id": "bench"}
    case = PromptsToMetad()(SimulatePromptsd(labels=names, kinds=KINDS)(case))
    prompts = json.loads(case["image"].meta["prompts"])
    inferer = PromptedInferer(names, KINDS, output="masks")
    with torch.inference_mode():
        network.embed(image[..., 0].expand(3, -1, -1)[None])  # the first call pays for what torch sets up once
        clock = Clock(network, "embed", "decode_low_res", "upscale")
        start = time.perf_counter()
        together = inferer(case["image"][None], network)
        one_pass, shares = time.perf_counter() - start, dict(clock.seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        start = time.perf_counter()
        alone = encode_per_prompt(image, network, prompts, inferer.channels)
        loop = time.perf_counter() - start
    start = time.perf_counter()
    segmentation_values({"pred": together[0], "label": mask}, names, KINDS, axis=-1, case_id="bench")
    metrics = time.perf_counter() - start
    decoder = shares["decode_low_res"] + shares["upscale"]
    print(
        f"{options.fm}, {WEIGHTS[options.fm]} weights: {options.slices} slices of {options.size}^2, "
        f"{options.labels} labels x {len(KINDS)} kinds = {len(prompts)} prompts"
    )
    print(f"  one pass          {one_pass:8.2f} s   {options.slices / one_pass:8.2f} slices/s")
    print(f"  encode per prompt {loop:8.2f} s   {options.slices / loop:8.2f} slices/s")
    print(f"  ratio             {loop / one_pass:8.2f}")
    total = one_pass + metrics
    print(
        "  of one pass and its metrics: "
        f"encoder {shares['embed'] / total:.0%}, decoder {decoder / total:.0%}, metrics {metrics / total:.0%}, "
        f"rest {(one_pass - shares['embed'] - decoder) / total:.0%}"
    )
    print(f"  peak memory of the process after the one pass {peak:.2f} GiB")
    differing = float((together[0].as_tensor() != alone).float().mean())
    print(f"  voxels that differ between both: {differing:.1e}")
    print(f"  {cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads")
    print(
        f"  python {platform.python_version()}, torch {torch.__version__}, monai {monai.__version__}, "
        f"segment-anything {version('segment-anything')}"
    )


if __name__ == "__main__":
    main()
