"""Serves a trained network over HTTP."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cnnjax.errors import ConfigError, UserError
from cnnjax.progress import Progress

MISSING = "serving takes a few more packages: pip install 'cnnjax[serve]'"

SERVED = (".onnx", ".stablehlo")


def serve(workdir: str | Path, *, host: str = "127.0.0.1", port: int = 8000, step: str | int = "best", token_file: str | Path = "",
          limits: Iterable[str] | Mapping[str, float] = (), latency: float = 0.0, origins: Iterable[str] = (), trust_code: bool = False,
          progress: Progress | None = None) -> None:  # fmt: skip
    """Serves a run, or an exported file, until SIGTERM or Ctrl-C; docs/serving.md has the addresses and what they answer.

    Args:
        workdir: the run directory; that of a cross-validation, whose networks answer together; or a file of `--mode=export` that ends in
            .onnx or .stablehlo.
        host: the address of this machine to listen at; "0.0.0.0": all of them.
        port: its port; 0: a free one, which `progress` hears.
        step: "best", "latest" or the number of a checkpoint that was kept. A reload chooses anew.
        token_file: file with a token on each line, one of which a client has to have; "": everybody may use it.
        limits: as ["bytes=5e6"] or {"bytes": 5e6}; see `Limits`.
        latency: milliseconds that an image may wait for others, so that they go through the network together; 0: none waits.
        origins: addresses of pages that may use it from a browser, such as "https://example.org".
        trust_code: import the Python files of its own that the run names, which no run of this user has used.
        progress: hears where it serves, and of reloads.

    Raises:
        CheckpointError: no such run or checkpoint, or a damaged one.
        ConfigError: a limit, a token file or an origin that is wrong, or packages that are missing.
        DataError: it cannot listen there.
    """
    try:
        from cnnjax import serving as served
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cnnjax"):
            raise
        raise ConfigError(f"{MISSING} ({error.name} is not installed)") from None
    progress, own = progress or Progress(), served.parse_limits(limits)
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port={port}: write a number from 0 to 65535; 0 is a free one")
    if Path(workdir).is_file() and Path(workdir).suffix.lower() not in SERVED:
        raise ConfigError(
            f"{workdir} is a file, and neither .onnx nor .stablehlo; name such a file of --mode=export, or the directory of a run"
        )
    if not 0 <= latency <= 1000:
        raise ConfigError(f"--latency={latency:g}: write milliseconds from 0 to 1000")
    for origin in (origins := tuple(origins)):
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
            raise ConfigError(
                f"--origins={origin}: write the address of a page without its path, such as https://example.org"
            )

    def load() -> served.Served:
        import jax

        from cnnjax import inference

        if Path(workdir).suffix.lower() in SERVED:
            return served.of_exported(inference.open_exported(workdir), Path(workdir).stem)
        # A network of a millisecond is computed where it is called; a process that has used JAX already keeps to what it does.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        classifier = inference.load(workdir, step, trust_code=trust_code)
        for warning in (classifier.warning, *classifier.ignored):
            if warning:
                progress.warn(warning)
        return served.of_classifier(classifier, Path(workdir).resolve().name, _card(workdir, served))

    def tokens() -> served.Tokens:
        return served.read_tokens(token_file) if token_file else served.Tokens()

    service = served.Service(
        load, host, port, limits=own, tokens=tokens, origins=origins, latency=latency / 1000, progress=progress
    )
    if not token_file and host not in served.LOCAL:
        progress.warn(f"everybody who reaches {service.address} may use it; --token_file=FILE asks for a token")
    service.run()


def _card(workdir: str | Path, served):
    """Returns what a run's report says first; nothing where it cannot be said, as of a cross-validation."""
    from cnnjax import pages, runs

    try:
        notes = pages.answer(pages.read_record(runs.RunDirectory(workdir)))
    except UserError:
        return served.Card()
    return served.Card(
        tuple(note.text for note in notes if not note.warning), tuple(note.text for note in notes if note.warning)
    )
