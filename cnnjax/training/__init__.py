"""Training: the loop, its pure steps, and what they are made of."""

from cnnjax.training.feeds import DeviceFeed, HostFeed, TrainBatches
from cnnjax.training.losses import LOSSES, cross_entropy
from cnnjax.training.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, make_optimizer, make_schedule
from cnnjax.training.plan import Ahead, Plan, choose_batch_size, make_plan
from cnnjax.training.state import TrainState, bytes_per_device, initial
from cnnjax.training.steps import Steps, compile_augmentation, compile_steps

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "Ahead",
    "DeviceFeed",
    "HostFeed",
    "Optimizer",
    "Plan",
    "Steps",
    "TrainBatches",
    "TrainState",
    "bytes_per_device",
    "choose_batch_size",
    "compile_augmentation",
    "compile_steps",
    "cross_entropy",
    "initial",
    "make_optimizer",
    "make_plan",
    "make_schedule",
]
