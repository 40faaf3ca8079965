"""Words of other trainers, and those of this program in their place."""

from cnnjax import config as config_lib

MODES = {"fit": "train", "resume": "train", "finetune": "train", "test": "eval", "val": "eval", "validate": "eval", "evaluate": "eval",
         "infer": "predict", "inference": "predict", "classify": "predict", "info": "describe", "summary": "describe", "cv": "crossvalidate", "kfold": "crossvalidate",
         "tune": "lr_find", "visualize": "explore", "eda": "explore", "compare": "report",
         "corruptions": "robustness", "robust": "robustness"}  # fmt: skip
KEYS = {"data": "data.path", "dataset": "data.path", "data_dir": "data.path", "train_dir": "data.path", "root": "data.path",
        "lr0": "optimizer.learning_rate", "batch": "data.batch_size", "bs": "data.batch_size", "imgsz": "image.size",
        "img_size": "image.size", "image_size": "image.size", "input_size": "image.size", "model": "model.name", "arch": "model.name",
        "opt": "optimizer.name", "num_epochs": "train.epochs", "num_workers": "runtime.workers", "amp": "train.precision",
        "fp16": "train.precision", "bf16": "train.precision", "gpus": "runtime.devices", "gpu": "runtime.devices",
        "device": "runtime.devices", "dropout": "model.dropout_dense", "mixup_alpha": "augment.mixup"}  # fmt: skip
SAME = "the same command with the same --workdir=DIR continues a run"
FLAGS = {"resume": SAME, "checkpoint": SAME, "ckpt": SAME} | dict.fromkeys(
    ("output_dir", "out_dir", "save_dir", "logdir", "log_dir", "project", "run_name"),
    "--workdir=DIR names the run directory",
)


def for_flag(name: str) -> str:
    """Returns what to type in place of a flag that does not exist; "" where nothing resembles it."""
    name = name.replace("-", "_")
    if name in FLAGS:
        return FLAGS[name]
    near = [KEYS[name]] if name in KEYS else config_lib.nearest(name)
    return " or ".join(f"--config.{key}=VALUE" for key in near)


def for_mode(name: str) -> str:
    """Returns what to type in place of a mode that does not exist; "" where nothing resembles it."""
    return f"--mode={MODES[name]}" if name in MODES else ""
