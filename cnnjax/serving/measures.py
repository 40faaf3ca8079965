"""Numbers about a server, as Prometheus reads them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Measures:
    """Counters of one server, apart from those of other servers in the process."""

    def __init__(self):
        own = self._registry = CollectorRegistry()
        self._requests = Counter("cnnjax_requests", "Requests by address and status.", ("path", "code"), registry=own)
        self._seconds = Histogram("cnnjax_request_seconds", "From the head of a request to its answer, by address.", ("path",), buckets=SECONDS,
                                  registry=own)  # fmt: skip
        self._images = Counter(
            "cnnjax_images", "Images by the class that was called; the empty one: not read.", ("predicted",), registry=own
        )
        self._unlike = Counter("cnnjax_unlike_images", "Images unlike those of the training.", registry=own)
        self._batch = Histogram("cnnjax_batch_images", "Images of a batch.", buckets=IMAGES, registry=own)
        self._computed = Histogram(
            "cnnjax_batch_seconds", "Seconds of a batch in the network.", buckets=SECONDS, registry=own
        )
        self._held = Gauge("cnnjax_requests_in_flight", "Requests that are answered or wait.", registry=own)
        self._network = Gauge("cnnjax_network_info", "The network that answers.", ("name", "version"), registry=own)
        self._loads = Counter("cnnjax_loads", "Loads of a network, by their result.", ("result",), registry=own)
        ProcessCollector(registry=own)
        self._children: dict[tuple, tuple] = {}

    def batch(self, images: int, seconds: float) -> None:
        """Notes a batch."""
        self._batch.observe(images)
        self._computed.observe(seconds)

    def request(self, path: str, code: int, seconds: float) -> None:
        """Notes a request that was answered; `path` is one of a few."""
        found = self._children.get((path, code))
        if found is None:
            found = self._children[path, code] = self._requests.labels(path, code), self._seconds.labels(path)
        found[0].inc()
        found[1].observe(seconds)

    def image(self, predicted: str, unlike: bool) -> None:
        """Notes an image; "": it could not be read."""
        found = self._children.get((predicted,))
        if found is None:
            found = self._children[predicted,] = (self._images.labels(predicted),)
        found[0].inc()
        if unlike:
            self._unlike.inc()

    def network(self, name: str, version: str) -> None:
        """Notes which network answers from now on."""
        self._network.clear()
        self._network.labels(name, version).set(1)

    def load(self, result: str) -> None:
        """Notes a load: "new", "same" or "failed"."""
        self._loads.labels(result).inc()

    def text(self, in_flight: int) -> bytes:
        """Returns all of it in Prometheus' text format."""
        self._held.set(in_flight)
        return generate_latest(self._registry)
