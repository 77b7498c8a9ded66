"""Parts that the configurations of every task share."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.catalog import Row

Config = dict[str, Any]

TRAINED = (
    *("linear_probe", "mlp_probe", "prototypes", "adapter", "lora", "full_finetune"),
    *("lora_prompted", "decoder_finetune"),
)
"""Usages that train something."""

IMPORTS = [
    "$import os",
    "$import monai",
    "$import torch",
    "$import ignite",
    "$from fairmedfm_monai.bundle import check_overrides",
    "$from fairmedfm_monai.bundle import default_tracking_uri",
    "$from fairmedfm_monai.bundle import stamps",
    "$from fairmedfm_monai.bundle import weights_licence",
    "$from fairmedfm_monai.handlers import free_output_dir",
    "$from fairmedfm_monai.handlers import exit_on_failures",
    "$from fairmedfm_monai.handlers import log_headline",
    "$from fairmedfm_monai.handlers import unique_run_name",
]
DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
CHECK = "$check_overrides()"
WARN_IMPORT = "$from fairmedfm_monai.bundle import warn_of_licence"
SEED = "$monai.utils.set_determinism(seed=@seed)"


def imports(*names: str) -> list[str]:
    """The shared imports and further ones of ``fairmedfm_monai.bundle``."""
    return IMPORTS + [f"$from fairmedfm_monai.bundle import {name}" for name in names]


def paths(row: Row, *, writes_run: bool = True) -> Config:
    """Where things are, first in every configuration. Only runs that write results can overwrite an earlier one."""
    return {
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "checkpoint": "$@ckpt_dir + '/model.pt'",
        "output_dir": "$@bundle_root + '/eval'",
        **({"overwrite": False} if writes_run else {}),
        "dataset_dir": row.demo_dataset,
    }


def model_choice(row: Row) -> Config:
    """Which weights and variant of the FM."""
    return {"weights": "pretrained", "variant": row.default_variant}


def machine(*, batch_size: int, num_workers: int = 0) -> Config:
    """How the run uses the machine."""
    return {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "amp": False,
        "seed": 0,
        "device": DEVICE,
        "rank": "$int(os.environ.get('RANK', '0'))",
    }


def statistics() -> Config:
    """What the fairness layer is asked for."""
    return {"operating_point": None, "n_bootstrap": 1000, "log_cases": False}


def tracking(
    row: Row,
    usage: str,
    stage: str,
    *,
    weights: str = "@weights",
    variant: str = "@variant",
    mitigation: str | None = None,
    mitigation_after: str | None = None,
) -> Config:
    """Where the run is tracked, and its tags; ``mitigation`` says how groups were treated in training, and after it."""
    licence = f"$weights_licence({weights.removeprefix('$')}, fm='{row.name}')"
    return {
        "tracking_uri": "$default_tracking_uri()",
        "experiment_name": "$'fairmedfm-' + @dataset_info.name",
        "run_name": f"$unique_run_name('{row.name}_{row.task}_{usage}')",
        "tags": {
            "fm": row.name,
            "usage": usage,
            "stage": stage,
            "weights": weights,
            "variant": variant,
            "weights_licence": licence,
            **({} if mitigation is None else {"mitigation": mitigation}),
            **({} if mitigation_after is None else {"mitigation_after_training": mitigation_after}),
            "stamps": "@stamps",
        },
    }


def stamps(row: Row, *, weights: str = "@weights", with_card: bool = True, with_prompts: bool = False) -> str:
    """What every output of a run must say; with the dataset's card, also on data that the FM was trained on."""
    card = ", release=@dataset_info.card.release" if with_card else ""
    prompts = ", prompts=@prompts" if with_prompts else ""
    return f"$stamps({weights}, fm='{row.name}'{card}{prompts})"


def with_licence_warning(row: Row, config: Config) -> Config:
    """Warn right at the start of a run where the weights may not be used for everything."""
    if not row.is_restricted or CHECK not in config.get("initialize", ()):
        return config
    steps = list(config["initialize"])
    steps.insert(steps.index(CHECK) + 1, f"$warn_of_licence(@tags#weights, fm='{row.name}')")
    imports = {key: [*config[key], WARN_IMPORT] for key in ("imports",) if key in config}
    return config | imports | {"initialize": steps}


def dataset_info() -> Config:
    """The dataset folder, read and checked."""
    return {
        "dataset_info": {
            "_target_": "fairmedfm_monai.data.load_dataset",
            "dataset_dir": "@dataset_dir",
            "attributes": "@attributes",
        }
    }


def tracking_handler(**extra: Any) -> Config:
    """MLflow, on the first process only."""
    return {
        "_target_": "fairmedfm_monai.handlers.TrackingHandler",
        "_disabled_": "$@rank > 0",
        "tracking_uri": "@tracking_uri",
        "experiment_name": "@experiment_name",
        "run_name": "@run_name",
        "tags": "@tags",
        "iteration_log": False,
        **extra,
    }


def stats_handler(**extra: Any) -> Config:
    """The log on the screen, on the first process only."""
    return {
        "_target_": "StatsHandler",
        "_disabled_": "$@rank > 0",
        "iteration_log": False,
        "epoch_print_logger": "$log_headline",
        **extra,
    }


def fairness_handler(**extra: Any) -> Config:
    """Subgroup metrics, on every process (it gathers)."""
    return {
        "_target_": "fairmedfm_monai.handlers.FairnessHandler",
        "dataset": "@dataset_info",
        "seed": "@seed",
        **extra,
    }


def early_stopping() -> Config:
    """The end of a training that does not become better, on every process; ``keep_progress`` gives it the trainer."""
    return {"_target_": "fairmedfm_monai.handlers.EarlyStopping", "patience": "@patience"}


KEEPS_LAST = "$@select_by == 'last'"
"""Whether the last epoch is kept, without any validation."""

CHOSEN_BY = "$None if @select_by == 'last' else @select_by"
"""``select_by`` of the handler that makes the selection."""


SELECTION = "$check_selection(@train#trainer, select_by=@select_by, val_interval=@val_interval, patience=@patience)"
"""Step of a training's ``initialize``: it can leave a model.pt."""


def start_from(state: str) -> str:
    """Step of a training's ``initialize``: begin with the weights of an earlier training."""
    return f"$start_from_model(@start_from, {state}, info=@model_info, resume=@resume)"


def keep_last(state: str) -> str:
    """Step of a training's ``initialize``: model.pt is the last epoch where ``select_by`` says so."""
    return f"$keep_last(@train#trainer, @ckpt_dir, {state}, select_by=@select_by)"


def evaluation_handlers(*after_report: Config, **extra: Any) -> list[Config]:
    """Handlers of an evaluate.json, in the order in which they must run; ``extra`` is the report's."""
    report = fairness_handler(
        output_dir="@run_dir",
        operating_point="@operating_point",
        n_bootstrap="@n_bootstrap",
        log_cases="@log_cases",
        overwrite="@overwrite",
        stamps="@stamps",
        tags="@tags",
        **extra,
    )
    return [
        report,
        *after_report,
        tracking_handler(output_dir="@run_dir", log_cases="@log_cases", close_on_complete=True),
        stats_handler(),
    ]


def evaluator(**extra: Any) -> Config:
    """MONAI's evaluator on the top-level ids."""
    return {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
        "amp": "@amp",
        **extra,
    }


def dataloader(dataset: str, **extra: Any) -> Config:
    """A data loader."""
    return {
        "_target_": "DataLoader",
        "dataset": dataset,
        "batch_size": "@batch_size",
        "num_workers": "@num_workers",
        **extra,
    }


def checkpoint_loader() -> Config:
    """The zoo's way to load ``model.pt``, called in ``initialize``."""
    return {
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "@checkpoint",
            "load_dict": {"model": "@network_def"},
            "map_location": "cpu",
        }
    }


def sampler(dataset: str, *, shuffle: bool) -> Config:
    """A sampler that deals the cases to the processes, repeating some so that all get as many."""
    return {"_target_": "DistributedSampler", "dataset": dataset, "even_divisible": True, "shuffle": shuffle}


def distributed_start() -> list[str]:
    """First steps of every process; the ``sync`` builds Ignite's group on all of them at one place."""
    return [
        CHECK,
        "$dist.init_process_group(backend='nccl' if torch.cuda.is_available() else 'gloo')",
        "$ignite.distributed.sync()",
        "$torch.cuda.set_device(@device) if torch.cuda.is_available() else None",
        SEED,
    ]


DISTRIBUTED_DEVICE = "$torch.device('cuda:' + os.environ['LOCAL_RANK'] if torch.cuda.is_available() else 'cpu')"
DISTRIBUTED_IMPORTS = ["$import torch.distributed as dist"]
DISTRIBUTED_END = ["$dist.destroy_process_group()"]
EXIT = "$exit_on_failures(@evaluator)"


def data_parallel(module: str) -> Config:
    """The network, wrapped for several processes."""
    return {
        "_target_": "torch.nn.parallel.DistributedDataParallel",
        "module": module,
        "device_ids": "$[@device] if torch.cuda.is_available() else None",
    }


def load_image(keys: str | list[str]) -> list[Config]:
    """MONAI's loader with the reader that serves every format a dataset folder may hold.

    The channel axis is a step of its own: MONAI Deploy leaves the loader out and hands over an array without channels.
    """
    return [
        {"_target_": "LoadImaged", "keys": keys, "reader": "fairmedfm_monai.transforms.CaseReader"},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
    ]
