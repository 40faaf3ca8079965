"""The mode that serves a network over HTTP."""

from collections.abc import Mapping
from pathlib import Path

from cnnjax.cli.flags import FLAGS
from cnnjax.errors import ConfigError
from cnnjax.progress import Console


def serve_file(overrides: Mapping[str, str], console: Console) -> None:
    """Serves an exported file."""
    if FLAGS.workdir:
        raise ConfigError(f"--model={FLAGS.model} and --workdir={FLAGS.workdir} are two networks; leave one of them out")
    from cnnjax.commands.serve import SERVED

    if Path(FLAGS.model).suffix.lower() not in SERVED:
        raise ConfigError(
            f"--model={FLAGS.model}: name a file of --mode=export that ends in .onnx or .stablehlo, or a run with --workdir=RUN"
        )
    serve(Path(FLAGS.model), overrides, console)


def serve(workdir: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Serves a run until SIGTERM or Ctrl-C."""
    from cnnjax.commands.serve import serve as served

    if overrides:
        raise ConfigError("--mode=serve takes its config from the checkpoint; leave out --config.* flags")
    served(workdir, host=FLAGS.host, port=FLAGS.port, step=FLAGS.step, token_file=FLAGS.token_file, limits=FLAGS.limits, latency=FLAGS.latency,
           origins=FLAGS.origins, trust_code=FLAGS.trust_code, progress=console)  # fmt: skip
