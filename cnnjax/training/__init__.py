"""Training: the loop, its pure steps, and the objects beside it."""

from cnnjax.training.feeds import DeviceFeed, HostFeed, TrainBatches
from cnnjax.training.loop import Loop
from cnnjax.training.losses import LOSSES
from cnnjax.training.observer import Observer
from cnnjax.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from cnnjax.training.plan import Ahead, Plan, choose_batch_size, make_plan
from cnnjax.training.saver import Saver
from cnnjax.training.showcase import Showcase
from cnnjax.training.start import Start, find_start, open_feed
from cnnjax.training.state import TrainState, bytes_per_device, initial
from cnnjax.training.steps import Steps, compile_augmentation, compile_steps
from cnnjax.training.summary import summarize
from cnnjax.training.validation import Validation

# fmt: off
__all__ = ["LOSSES", "OPTIMIZERS", "SCHEDULES", "Ahead", "DeviceFeed", "HostFeed", "Loop", "Observer", "Plan", "Saver", "Showcase",
           "Start", "Steps", "TrainBatches", "TrainState", "Validation", "bytes_per_device", "choose_batch_size",
           "compile_augmentation", "compile_steps", "find_start", "initial", "make_optimizer", "make_plan", "make_schedule",
           "open_feed", "summarize"]
# fmt: on
