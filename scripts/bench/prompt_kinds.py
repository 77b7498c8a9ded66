"""Four kinds of prompts in one pass against four runs, one kind each.

    python scripts/bench/prompt_kinds.py                 # demo_sam's geometry, random weights
    python scripts/bench/prompt_kinds.py --fm sam        # SAM ViT-B at full size, random weights (minutes on a CPU)

Both sides use the same inferer, the same prompts and the same batches; the one pass embeds each slice once, the four runs
four times. The masks of both sides are compared, so that the ratio is between equal results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import monai
import numpy as np
import segment_anything
import torch
from monai.data import MetaTensor

from fairmedfm_monai.inferers import PromptedInferer
from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.networks.segmenters.sam import SamSegmenter
from fairmedfm_monai.transforms import PromptsToMetad, SimulatePromptsd
from fairmedfm_monai.transforms.prompts import SIMULATED_KINDS

TARGET = 3.0
NETWORKS: dict[str, Callable[[], PromptableSegmenter]] = {
    "demo_sam": lambda: DemoSAM("random"),
    "sam_tiny": lambda: SamSegmenter("vit_b", "tiny"),
    "sam": lambda: SamSegmenter("vit_b", "random"),
}


def scene(slices: int, labels: int, size: int = 192) -> tuple[torch.Tensor, torch.Tensor, dict[str, int]]:
    """A noisy volume (1, size, size, slices) in 0..255, its mask with `labels` discs on each slice, and their values."""
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
        data = {"image": MetaTensor(image), "label": MetaTensor(mask), "case_id": "bench"}
        data = PromptsToMetad()(SimulatePromptsd(labels=names, kinds=kinds)(data))
        self.inputs, self.network = data["image"][None], network
        self.n_prompts = len(json.loads(data["image"].meta["prompts"]))
        self.inferer = PromptedInferer(names, kinds)

    def __call__(self) -> torch.Tensor:
        """Mask logits (1, kinds x labels, H, W, D)."""
        with torch.inference_mode():
            return self.inferer(self.inputs, self.network).as_tensor()


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


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
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--labels", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the least CPU time of each side counts")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 = torch's default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    network = NETWORKS[options.fm]()
    size = {"slices": options.slices, "labels": options.labels}
    together = Task(network, SIMULATED_KINDS, **size)
    alone = [Task(network, (kind,), **size) for kind in SIMULATED_KINDS]
    difference = float((together() - torch.cat([task() for task in alone], dim=1)).abs().max())
    rounds = [(timed(together), timed(lambda: [task() for task in alone])) for _ in range(options.repeats)]
    # Wall and CPU seconds (least of all rounds) of one pass and of four runs.
    (one_wall, one_cpu), (four_wall, four_cpu) = np.array(rounds).min(axis=0).tolist()
    print(f"four prompt kinds in one pass against four runs: {options.fm}, random weights")
    print(
        f"  {options.slices} slices, {options.labels} label(s), {together.n_prompts} prompts, {options.repeats} rounds"
    )
    print(f"  one pass  {one_wall:8.3f} s wall {one_cpu:8.3f} s CPU")
    print(f"  four runs {four_wall:8.3f} s wall {four_cpu:8.3f} s CPU")
    print(f"  ratio     {four_wall / one_wall:8.2f}   wall {four_cpu / one_cpu:8.2f}   CPU   (target {TARGET:.0f})")
    print(f"  largest difference of the logits {difference:.1e}")
    print(
        f"  {cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, python {platform.python_version()}"
    )
    print(f"  torch {torch.__version__}, monai {monai.__version__}, segment-anything {_version(segment_anything)}")


def _version(module: object) -> str:
    from importlib.metadata import version

    return version(str(getattr(module, "__name__", module)).replace("_", "-"))


if __name__ == "__main__":
    main()
