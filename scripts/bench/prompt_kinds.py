"""Four kinds of prompts in one pass against four runs, one kind each.

    python scripts/bench/prompt_kinds.py                                       # SAM ViT-B, minutes on a CPU
    python scripts/bench/prompt_kinds.py --fm demo_sam --slices 8 --repeats 5  # seconds

Weights are random. Both sides use the same inferer, the same prompts and the same batches; the one pass embeds each
slice once, the four runs four times, and both decode the same prompts. The ratio is therefore near 4 where the image
encoder costs much more than the decoder, as in SAM, and less for small encoders or many labels. The masks of both sides
are compared, so that the ratio is between equal results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Hashable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import MetaTensor

from fairmedfm_monai.inferers.prompted import PromptedInferer
from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.networks.segmenters.sam import SamSegmenter
from fairmedfm_monai.transforms.prompts import SIMULATED_KINDS
from fairmedfm_monai.transforms.prompts_to_meta import PromptsToMetad
from fairmedfm_monai.transforms.simulate_prompts import SimulatePromptsd

TARGET = 3.0
NETWORKS: dict[str, Callable[[], PromptableSegmenter]] = {
    "demo_sam": lambda: DemoSAM("random"),
    "sam_tiny": lambda: SamSegmenter("vit_b", "tiny"),
    "sam": lambda: SamSegmenter("vit_b", "random"),
}


def scene(slices: int, labels: int, size: int = 192) -> tuple[torch.Tensor, torch.Tensor, dict[str, int]]:
    """A noisy volume (1, size, size, slices) in 0..255, its mask with discs on each slice, and the labels' values."""
    rng = np.random.default_rng(0)
    mask = np.zeros((size, size, slices), dtype=np.uint8)
    rows, columns = np.indices((size, size))
    for value in range(1, labels + 1):
        centre = rng.integers(20, size - 20, size=2)
        mask[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 12**2] = value
    image = np.clip(rng.normal(80, 30, mask.shape) + 20 * mask, 0, 255).astype(np.float32)
    names = {f"label_{value}": value for value in range(1, labels + 1) if (mask == value).any()}
    return torch.from_numpy(image)[None], torch.from_numpy(mask)[None], names


class Task:
    """One run over one volume with some kinds of prompts."""

    def __init__(self, network: PromptableSegmenter, kinds: tuple[str, ...], *, slices: int, labels: int) -> None:
        image, mask, names = scene(slices, labels)
        case: dict[Hashable, Any] = {"image": MetaTensor(image), "label": MetaTensor(mask), "case_id": "bench"}
        case = PromptsToMetad()(SimulatePromptsd(labels=names, kinds=kinds)(case))
        self.inputs, self.network = case["image"][None], network
        self.n_prompts = len(json.loads(case["image"].meta["prompts"]))
        self.inferer = PromptedInferer(names, kinds)

    def __call__(self) -> torch.Tensor:
        """Mask logits (1, kinds x labels, H, W, D)."""
        with torch.inference_mode():
            return self.inferer(self.inputs, self.network)


def timed(function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, tuple[float, float]]:
    """Result of one call, and its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fm", choices=list(NETWORKS), default="sam")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--labels", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="rounds; the least time counts")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 = torch's default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    network = NETWORKS[options.fm]()
    size = {"slices": options.slices, "labels": options.labels}
    together = Task(network, SIMULATED_KINDS, **size)
    alone = [Task(network, (kind,), **size) for kind in SIMULATED_KINDS]
    rounds = []
    for _ in range(options.repeats):
        one, one_times = timed(together)
        four, four_times = timed(lambda: torch.cat([task() for task in alone], dim=1))
        rounds.append([one_times, four_times])
    (one_wall, one_cpu), (four_wall, four_cpu) = np.array(rounds).min(axis=0).tolist()
    print(f"four prompt kinds in one pass against four runs: {options.fm}, random weights")
    print(f"  {options.slices} slice(s), {options.labels} label(s), {together.n_prompts} prompts")
    print(f"  one pass  {one_wall:8.3f} s wall {one_cpu:8.3f} s CPU")
    print(f"  four runs {four_wall:8.3f} s wall {four_cpu:8.3f} s CPU")
    print(f"  ratio     {four_wall / one_wall:8.2f}   wall {four_cpu / one_cpu:8.2f}   CPU   (target {TARGET:.0f})")
    print(f"  largest difference of the logits {float((one - four).abs().max()):.1e}")
    print(f"  {cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads")
    print(
        f"  python {platform.python_version()}, torch {torch.__version__}, monai {monai.__version__}, "
        f"segment-anything {version('segment-anything')}"
    )


if __name__ == "__main__":
    main()
