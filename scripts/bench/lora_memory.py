"""Peak memory of LoRA on a ViT-B/16 at 224 pixels and batch 32: one training step on the CPU.

    python scripts/bench/lora_memory.py [--batch 32] [--fm clip] [--variant ViT-B/16]

The network is what the LoRA bundle trains: `LinearProbe` on the encoder, adapters by `add_lora` on the layers that the
catalog names, AdamW. Weights are random, because memory does not depend on them. Peak is the highest resident memory
of the process (ru_maxrss). Full fine-tuning stands beside it. Each runs with and without gradient checkpointing, in a
process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version

KINDS = {
    "lora": "LoRA",
    "lora_checkpointing": "LoRA, gradient checkpointing",
    "full": "full fine-tuning",
    "full_checkpointing": "full fine-tuning, gradient checkpointing",
}


def peak_gib() -> float:
    """Highest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def step(kind: str, options: argparse.Namespace) -> None:
    """One training step; prints the peak after the imports, with the network, and after the step."""
    import torch
    from monai.bundle import ConfigParser

    from fairmedfm_monai.bundle.configs import classification_parts
    from fairmedfm_monai.catalog import find_row
    from fairmedfm_monai.usages import FullFinetune, LinearProbe, add_lora, train_whole
    from fairmedfm_monai.usages.trainable import trainable_parameters

    row = find_row(options.fm)
    config = classification_parts.network(row, "linear_probe", stage="train")["encoder"]
    parser = ConfigParser({"variant": options.variant, "weights": "random", "encoder": config})
    marks = [peak_gib()]
    encoder = parser.get_parsed_content("encoder")
    shape = [options.batch, encoder.input_spec.channels, encoder.input_spec.size, encoder.input_spec.size]
    checkpointing = {"gradient_checkpointing": kind.endswith("checkpointing")}
    if kind.startswith("lora"):
        lora = {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": row.lora_targets}
        network = add_lora(LinearProbe(encoder, 2), **lora, **checkpointing)
    else:
        network = train_whole(FullFinetune(encoder, 2), image_shape=[1, *shape[1:]], **checkpointing)
    marks.append(peak_gib())
    network.train()
    optimizer = torch.optim.AdamW([parameter for parameter in network.parameters() if parameter.requires_grad])
    start = time.process_time()
    loss = torch.nn.functional.cross_entropy(network(torch.randn(shape)), torch.arange(options.batch) % 2)
    loss.backward()
    optimizer.step()
    marks += [peak_gib(), time.process_time() - start]
    trained, total = trainable_parameters(network)
    print(f"result {' '.join(f'{mark:.3f}' for mark in marks)} {trained} {total}")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--fm", default="clip")
    parser.add_argument("--variant", default="ViT-B/16")
    parser.add_argument("--only", choices=KINDS, help="one of the four")
    parser.add_argument("--inside", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        step(options.inside, options)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "monai", "peft", "open_clip_torch")))
    print(f"{options.fm} {options.variant}, random weights, batch {options.batch}, fp32, one step with AdamW")
    print(f"{'':42}{'peak GiB':>10}{'over imports':>14}{'CPU s':>8}   trained of all parameters")
    for kind in [options.only] if options.only else KINDS:
        command = [sys.executable, __file__, "--inside", kind, "--batch", str(options.batch)]
        command += ["--fm", options.fm, "--variant", options.variant]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        line = next((line for line in done.stdout.splitlines() if line.startswith("result ")), None)
        if line is None:
            sys.exit(f"{KINDS[kind]} failed: {done.stderr[-2000:]}")
        imports, _, peak, seconds, trained, total = (float(value) for value in line.split()[1:])
        print(f"{KINDS[kind]:42}{peak:10.2f}{peak - imports:14.2f}{seconds:8.1f}", end="")
        print(f"   {trained:,.0f} of {total:,.0f}", flush=True)
    print("GPU: not measured")


if __name__ == "__main__":
    main()
