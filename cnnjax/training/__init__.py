"""Training: the loop, its pure steps, and the objects beside it."""

from cnnjax.training.ahead import Compiled, collectives, compile_ahead
from cnnjax.training.batch_size import check_fits, with_batch_size
from cnnjax.training.early_stopping import MONITORS, check_monitor, epochs_of
from cnnjax.training.epochs import epochs_between, with_epochs, with_kept
from cnnjax.training.feeds import DeviceFeed, HostFeed, TrainBatches, batches_of
from cnnjax.training.finetuning import frozen_paths, trained_of, tuned_optimizer, tuning_lines
from cnnjax.training.imbalance import supposed_share
from cnnjax.training.loop import Loop
from cnnjax.training.losses import LOSSES
from cnnjax.training.observer import Observer
from cnnjax.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from cnnjax.training.plan import Ahead, Plan, choose_batch_size, make_plan, stored_images
from cnnjax.training.pretrained import with_weights
from cnnjax.training.probe import NoFeed, Probe, check_probe
from cnnjax.training.range_test import STEPS as RANGE_STEPS
from cnnjax.training.range_test import RangeTest, range_test
from cnnjax.training.saver import Saver
from cnnjax.training.showcase import Showcase
from cnnjax.training.start import Start, check_start, find_start, open_feed
from cnnjax.training.state import TrainState, bytes_per_device
from cnnjax.training.steps import Steps, compile_augmentation, compile_steps
from cnnjax.training.summary import summarize
from cnnjax.training.validation import Validation, open_validation

# fmt: off
__all__ = ["LOSSES", "MONITORS", "OPTIMIZERS", "RANGE_STEPS", "SCHEDULES", "Ahead", "Compiled", "DeviceFeed", "HostFeed", "Loop", "NoFeed", "Observer", "Plan",
           "Probe", "RangeTest", "Saver", "Showcase", "Start", "Steps", "TrainBatches", "TrainState", "Validation", "batches_of", "bytes_per_device",
           "check_fits", "check_monitor", "check_probe", "check_start", "choose_batch_size", "collectives", "compile_ahead", "compile_augmentation", "compile_steps", "epochs_between", "epochs_of", "find_start",
           "frozen_paths", "make_optimizer", "make_plan", "make_schedule", "open_feed", "open_validation", "range_test", "stored_images", "summarize", "supposed_share", "trained_of",
           "tuned_optimizer", "tuning_lines", "with_batch_size", "with_epochs", "with_kept", "with_weights"]
# fmt: on
