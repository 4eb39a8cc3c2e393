"""The networks of a study on the machines of a Ray cluster, or on a local one that is started for it (extra ``ray``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigurationError, WorkerFailed, sentence
from .executors import Job, Outcome, Task
from .plan import Network, NetworkResult, Parent
from .reporter import Events, Reporter

_POLL_SECONDS = 0.5
_MOST_LOSSES = 10  # of one network: after that it is likely that the network itself kills its workers


class RayExecutor:
    """Makes networks as Ray tasks. A killed worker or machine loses its running epoch where the run directory is shared
    between the machines, otherwise its current level.

    Args:
        job: the study. Every machine needs prunecca, and the images in the same folder.
        workers: networks at the same time; None: as many as the cluster has threads (or shares of GPUs) for.
        address: of a running cluster, such as ``auto`` or ``HOST:6379``; None starts a local one.
        gpus_per_network: a fraction of a GPU, such as 0.25 for four networks on each; 0 for none.
        reporter: told what happens.

    Raises:
        ConfigurationError: Ray is not installed, or the cluster cannot be reached or is too small.
    """

    def __init__(
        self, job: Job, workers: int | None, address: str | None, gpus_per_network: float, reporter: Reporter
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigurationError("engine ray needs Ray; install it with: pip install 'prunecca[ray]'") from error
        self._ray: Any = ray
        self._reporter = reporter
        self._started = not ray.is_initialized()
        local: dict[str, Any] = {}
        if address is None:
            local = {"num_cpus": job.threads * workers if workers else None, "include_dashboard": False}
        if self._started:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigurationError(
                    f"no Ray cluster answers at {address} ({sentence(error)}); start one with `ray start`, or leave --address out"
                ) from error
        self._most = workers or self._capacity(job.threads, gpus_per_network)
        self._job = ray.put(job)
        self._make: Any = self._ray.remote(num_cpus=job.threads, num_gpus=gpus_per_network, max_retries=0)(_make)
        self._events: Any = self._ray.remote(num_cpus=0)(_Mailbox).remote()
        self._running: dict[Any, Network] = {}
        self._unpruned: dict[str, Any] = {}  # networks that are in Ray's object store already, by their digests
        self._losses: dict[Network, int] = {}

    @property
    def free(self) -> int:
        return self._most - len(self._running)

    def submit(self, task: Task) -> None:
        stored = {network: self._store(network, parent) for network, parent in task.parents.items()}
        reference = self._make.remote(self._job, task.network, list(stored), self._events, *stored.values())
        self._running[reference] = task.network

    def wait(self) -> Outcome:
        ray = self._ray
        while True:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_SECONDS)
            for name, arguments in ray.get(self._events.drain.remote()):
                getattr(self._reporter, name)(*arguments)
            for reference in ready:
                network = self._running.pop(reference)
                try:
                    result: NetworkResult | str = ray.get(reference)
                except ray.exceptions.RayError as error:
                    return self._lost(network, error)
                if isinstance(result, str):
                    raise WorkerFailed(result)
                return Outcome(network, result)

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._started:
            self._ray.shutdown()

    def _capacity(self, threads: int, gpus: float) -> int:
        total: Mapping[str, float] = self._ray.cluster_resources()
        limits = [total.get("CPU", 0.0) // threads] + ([total.get("GPU", 0.0) // gpus] if gpus else [])
        if min(limits) < 1:
            raise ConfigurationError(
                f"the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs, but a network needs "
                f"{threads} CPUs and {gpus:g} GPUs; lower --threads or --gpus-per-network"
            )
        return int(min(limits))

    def _store(self, network: Network, parent: Parent) -> Any:
        if network.level > 0:  # needed once; the unpruned network by all
            return self._ray.put(parent)
        if parent.digest not in self._unpruned:
            self._unpruned[parent.digest] = self._ray.put(parent)
        return self._unpruned[parent.digest]

    def _lost(self, network: Network, error: Exception) -> Outcome:
        self._losses[network] = self._losses.get(network, 0) + 1
        if self._losses[network] > _MOST_LOSSES:
            raise WorkerFailed(f"{network} was lost {_MOST_LOSSES} times ({type(error).__name__}); look at Ray's logs")
        return Outcome(network, None, f"{network}: its worker was lost ({type(error).__name__}); another takes over")


class _Mailbox:
    """A Ray actor that keeps what workers report until the owner asks."""

    def __init__(self) -> None:
        self._events: list[tuple[str, tuple[Any, ...]]] = []

    def put(self, event: tuple[str, tuple[Any, ...]]) -> None:
        self._events.append(event)

    def drain(self) -> list[tuple[str, tuple[Any, ...]]]:
        events, self._events = self._events, []
        return events


def _make(job: Job, network: Network, names: list[Network], events: Any, *parents: Parent) -> NetworkResult | str:
    """A Ray task: the result, or the sentence of what went wrong."""
    reporter = Events(lambda event: events.put.remote(event))
    try:
        return job.make(Task(network, dict(zip(names, parents, strict=True))), reporter)
    except Exception as error:
        return sentence(error)
