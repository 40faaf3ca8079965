"""Joining and leaving the other processes of a run."""

import contextlib
import errno
import os
from collections.abc import Iterator

from cnnjax.cli.flags import FLAGS
from cnnjax.errors import ConfigError, PeerError, Stopped, UserError
from cnnjax.progress import Console


def is_distributed() -> bool:
    """Tells from the flags, else from the environment, that this is one of several processes."""
    if FLAGS.distributed is not None:
        return FLAGS.distributed
    if FLAGS.coordinator:
        return True
    get = os.environ.get
    counts = [get("OMPI_COMM_WORLD_SIZE", "1"), get("SLURM_NTASKS", "1") if "SLURM_STEP_NODELIST" in os.environ else "1",
              get("MEGASCALE_NUM_SLICES", "1")]  # fmt: skip
    hosts = get("TPU_WORKER_HOSTNAMES", "")
    return (
        any(count.isdigit() and int(count) > 1 for count in counts)
        or "," in hosts
        or "JAX_COORDINATOR_ADDRESS" in os.environ
    )


@contextlib.contextmanager
def joined_processes() -> Iterator[bool]:
    """Joins the other processes of this run, where there are any; yields True in the one process that reports."""
    if not is_distributed():
        yield True
        return
    if FLAGS.coordinator and (FLAGS.num_processes < 1 or not 0 <= FLAGS.process_id < FLAGS.num_processes):
        raise ConfigError(f"--coordinator={FLAGS.coordinator} needs --num_processes=N and --process_id=0 ... N-1; given are "
                          f"{FLAGS.num_processes} and {FLAGS.process_id}")  # fmt: skip
    from cnnjax import runtime

    runtime.connect(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id, Console().warn)
    with runtime.readable_loss():
        try:
            yield runtime.is_main()
        except UserError as error:
            runtime.disconnect(error)
            raise
        except OSError as error:
            if disk_problem(error):
                runtime.disconnect(UserError(disk_problem(error)))
            raise
        except (Stopped, PeerError):  # all others leave at the same place
            runtime.disconnect()
            raise
        runtime.disconnect()


def disk_problem(error: OSError) -> str:
    """Returns one line about a file system that is full or read-only; "" for other errors."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return ""
    advice = "make it writable" if error.errno == errno.EROFS else "make room"
    again = "continues from the last checkpoint, if there is one" if FLAGS.mode == "train" else "starts again"
    place = error.filename or FLAGS.workdir or "the run directory"
    return f"{error.strerror} ({place}); {advice}, then the same command {again}"
