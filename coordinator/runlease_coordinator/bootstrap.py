"""The one place where objects are wired: settings in, a serving coordinator out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from runlease.redaction import redact_url
from runlease.v1 import (
    leases_pb2,
    leases_pb2_grpc,
    metrics_pb2,
    metrics_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
)

from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.domain.tickets import Tickets
from runlease_coordinator.history.archive import ArchivedLog
from runlease_coordinator.history.budget import ReadBudget
from runlease_coordinator.history.compactor import Compactor, Pacing
from runlease_coordinator.history.objects import ArchiveError, Objects, open_objects, probe
from runlease_coordinator.history.reads import HistoryReader
from runlease_coordinator.history.retention import Retention
from runlease_coordinator.history.threads import Threads
from runlease_coordinator.memory import trim_forever
from runlease_coordinator.rpc.errors import ErrorInterceptor
from runlease_coordinator.rpc.health import HealthService
from runlease_coordinator.rpc.leases import LeaseService
from runlease_coordinator.rpc.metrics import MetricService
from runlease_coordinator.rpc.runs import RunService
from runlease_coordinator.rpc.streams import A_CLIENT
from runlease_coordinator.settings import DEFAULT_MAX_TTL_S, Settings, StartupError
from runlease_coordinator.store.archive import ArchiveStore
from runlease_coordinator.store.embedded import EmbeddedStore
from runlease_coordinator.store.events import EventStore
from runlease_coordinator.store.leases import LeaseStore
from runlease_coordinator.store.limits import LimitStore
from runlease_coordinator.store.metrics import MetricStore
from runlease_coordinator.store.refusals import CHECK_URL
from runlease_coordinator.store.runs import RunStore
from runlease_coordinator.store.store import Opening, Store, Terms
from runlease_coordinator.store.sweeper import Sweeper
from runlease_coordinator.store.wakeups import Wakeups

log = logging.getLogger(__name__)

#: An archive that answers at all does so within this; the start does not wait for one that is away.
_PROBE_TIMEOUT_S = 10.0
MAX_MESSAGE_BYTES = 16 << 20
_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in ((leases_pb2, "LeaseService"), (runs_pb2, "RunService"), (metrics_pb2, "MetricService"))
)
#: Calls that have come and are not taken in yet: each holder has one at most, and each of its streams.
_MAX_WAITING = 30_000
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second coordinator on the port must fail, not share it
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # A client that vanished without a word keeps nothing here: it is asked now and then whether it still is there.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Neither does one that connects and says nothing, or nothing any more; a channel connects again with its next call.
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 600_000),
    # Above what `Streams` allows, which says so; a client that does not listen still has to wait.
    ("grpc.max_concurrent_streams", A_CLIENT + 1024),
    # Behind a failover all holders call at once, and are answered in their order: beyond 1000 that wait to be taken in
    # gRPC ends some by chance, CANCELLED, to call again. One whose time is up while it waits is dropped unseen.
    ("grpc.server.max_pending_requests", _MAX_WAITING),
    ("grpc.server.max_pending_requests_hard_limit", _MAX_WAITING),
)


class Coordinator:
    """A coordinator's parts in the order of their lives: store server, store, sweeper, gRPC server."""

    def __init__(self, settings: Settings) -> None:
        """Take checked settings; nothing runs before `start`."""
        self.settings = settings
        #: Where it listens, `HOST:PORT` or `unix:/PATH`, once it does.
        self.address = ""
        self._embedded: EmbeddedStore | None = None
        self._store: Store | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._server: grpc.aio.Server | None = None
        self._health = HealthService()
        self._metric_service: MetricService | None = None
        self._run_service: RunService | None = None
        self._wakeups: Wakeups | None = None
        self._leases: LeaseStore | None = None
        self._objects: Objects | None = None
        self._history: HistoryReader | None = None

    async def start(self) -> None:
        """Start everything.

        Raises:
            StartupError: it cannot; the message holds the remedy. What was started is stopped.
        """
        try:
            store = await self._open_store()
            self._objects = await open_archive(self.settings)
            await self._serve(store)
        except BaseException:  # a cancelled start, too, leaves nothing behind
            await self.stop(grace_s=0)
            raise

    async def stop(self, grace_s: float | None = None) -> None:
        """Refuse new calls, answer open ones for at most ``grace_s`` (the settings' drain), stop. Idempotent."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            if self._metric_service is not None:
                self._metric_service.drain()
            if self._run_service is not None:
                self._run_service.drain()
            if self._leases is not None:
                self._leases.drain()
            await self._server.stop(self.settings.drain_s if grace_s is None else grace_s)
            self._server = None
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        if self._history is not None:
            self._history.close()
            self._history = None
        if self._wakeups is not None:
            await self._wakeups.close()
            self._wakeups = None
        if self._store is not None:
            await self._store.close()
            self._store = None
        if self._embedded is not None:
            await self._embedded.stop()
            self._embedded = None

    async def _open_store(self) -> Store:
        settings = self.settings
        url = settings.store
        if url == "embedded":
            self._embedded = EmbeddedStore(settings.data_dir, settings.server_binary, log=log)
            await self._embedded.start()
            self._tasks.append(asyncio.create_task(self._embedded.watch(_restarted), name="embedded-store"))
            url = self._embedded.url
        self._store = store = await connect(
            url, replicas=settings.replicas, replicates_metrics=settings.durability == "replicated"
        )
        if self._embedded is not None:
            # It loses nothing acknowledged, so a restart is no loss: no quarantine.
            await store.bootstrap("embedded", max_ttl_us=int(settings.max_ttl_s * 1e6), replicas=0)
        else:
            check_terms(await store.terms(), settings)
        return store

    async def _serve(self, store: Store) -> None:
        settings = self.settings
        self._wakeups = Wakeups(store.place)
        self._wakeups.start()
        self._leases = leases = LeaseStore(store, self._wakeups, int(settings.lock_delay_s * 1e6))
        events, tickets = EventStore(store, self._wakeups), Tickets(await store.shared_secret())
        runs, metrics = RunStore(store), MetricStore(store)
        archive = ArchiveStore(store, owner=f"{socket.gethostname()}:{os.getpid()}")
        self._run_service = RunService(runs, events)
        budget = ReadBudget(settings.read_bytes)
        self._history = history = HistoryReader(runs, metrics, ArchivedLog(archive, self._objects), budget=budget)
        self._metric_service = MetricService(metrics, LimitStore(store), history, tickets)
        server = grpc.aio.server(interceptors=(ErrorInterceptor(),), options=_OPTIONS)
        leases_pb2_grpc.add_LeaseServiceServicer_to_server(
            LeaseService(leases, events, tickets, int(settings.max_ttl_s * 1e6)),
            server,
        )
        runs_pb2_grpc.add_RunServiceServicer_to_server(self._run_service, server)
        metrics_pb2_grpc.add_MetricServiceServicer_to_server(self._metric_service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name), server
        )
        self.address = _listen(server, settings.listen)
        await server.start()
        self._server = server
        for service in ("", *_SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._tasks.append(asyncio.create_task(Sweeper(store).run_forever(), name="sweeper"))
        self._tasks.append(asyncio.create_task(trim_forever(lambda: budget.taken), name="memory"))
        if self._objects is not None:
            pacing = Pacing(hot_bytes=settings.archive_bytes, ended_s=settings.archive_after_s)
            compactor = Compactor(archive, runs, self._objects, pacing)
            self._tasks.append(asyncio.create_task(compactor.run_forever(), name="compactor"))
        if settings.retention_days is not None:
            retention = Retention(archive, settings.retention_days * 86_400)
            self._tasks.append(asyncio.create_task(retention.run_forever(), name="retention"))


async def open_archive(settings: Settings) -> Objects | None:
    """Return the folder of archived histories; None where there is none.

    Raises:
        StartupError: it cannot be used; the message holds the remedy.
    """
    url = settings.archive_url
    if url is None:
        log.warning(
            "no history is archived: all points stay in the store's memory; give --history-url a path or a URL "
            "(s3://BUCKET/FOLDER) that all coordinators of this store can reach"
        )
        return None
    objects = await asyncio.to_thread(open_objects, url)
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            await Threads("archive-probe", 1).run(probe, objects)
    except TimeoutError:
        log.warning("the archive %s does not answer yet; points stay in the store until it does", objects.url)
    except ArchiveError as error:
        if error.refused:
            raise StartupError(f"cannot archive histories: {error}; check --history-url and its permissions") from None
        log.warning("the archive does not answer yet; points stay in the store until it does: %s", error)
    return objects


async def connect(url: str, *, replicas: int = 0, replicates_metrics: bool = False) -> Store:
    """Connect to a store and check that it is fit.

    Args:
        url: of the store.
        replicas: how many of them a control write must reach.
        replicates_metrics: whether metrics must, too.

    Raises:
        StartupError: unreachable, too old, one node of a cluster, or evicting; the message holds the remedy.
    """
    try:
        store = Store(url, replicas=replicas, replicates_metrics=replicates_metrics)
    except (TypeError, ValueError) as error:
        raise StartupError(f"--store {redact_url(url)}: an option cannot be used: {error}") from None
    try:
        await store.start()
        await _check_store(store, url)
    except BaseException as error:  # whatever it is, the connections go
        await store.close()
        if isinstance(error, Unavailable):
            message = f"cannot use the store {redact_url(url)}: {error}; {CHECK_URL}"
            raise StartupError(message) from error
        raise
    return store


def check_terms(found: set[Terms | None], settings: Settings) -> None:
    """Compare what the partitions of an external store were opened for with the settings.

    Raises:
        StartupError: they do not fit; the message holds the remedy.
    """
    shown = redact_url(settings.store)
    again = "or, if that is what you want from now on, stop all coordinators of this store and run `runlease bootstrap"
    for terms in found:
        if terms is None:
            nodes = f"--data-nodes {settings.data_nodes} " if settings.replicas else ""
            ttl = f"--max-ttl {settings.max_ttl_s:g} " if settings.max_ttl_s > DEFAULT_MAX_TTL_S else ""
            raise StartupError(
                f"the store {shown} is new to runlease, or has lost data: if it is new, run "
                f"`runlease bootstrap {nodes}{ttl}{shown}` once; if not, see `runlease bootstrap --help`"
            )
        if terms.replicas != settings.replicas:
            raise StartupError(
                f"the store {shown} was opened for writes that reach {_replicas(terms.replicas)}, and --data-nodes "
                f"{settings.data_nodes} means {_replicas(settings.replicas)}: give --data-nodes "
                f"{_data_nodes(terms.replicas)}, {again} --data-nodes {settings.data_nodes} {shown}`"
            )
        if terms.max_ttl_us < settings.max_ttl_s * 1e6:
            raise StartupError(
                f"the store {shown} was opened for leases of at most {terms.max_ttl_us / 1e6:g} s, and --max-ttl is "
                f"{settings.max_ttl_s:g} s: lower it, or run "
                f"`runlease bootstrap --max-ttl {settings.max_ttl_s:g} {shown}` first"
            )


def _replicas(count: int) -> str:
    return {0: "no replica", 1: "1 replica"}.get(count, f"{count} replicas")


def _data_nodes(replicas: int) -> str:
    return f"{2 * replicas} or {2 * replicas + 1}" if replicas else "1"


async def _check_store(store: Store, url: str) -> None:
    for server in await store.infos("server"):
        valkey = server.get("valkey_version")
        version = valkey or server.get("redis_version", "0")
        if int(version.partition(".")[0]) < (8 if valkey else 7):
            raise StartupError(f"the store {redact_url(url)} is version {version}: use Valkey >= 8 or Redis >= 7")
        # Valkey has renamed the field.
        if "cluster" in (server.get("redis_mode"), server.get("server_mode")) and not store.is_cluster:
            raise StartupError(
                f"the store {redact_url(url)} is a node of a cluster: name it redis+cluster://HOST:PORT, so that its "
                "other nodes are used, too"
            )
    for memory in await store.infos("memory"):
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StartupError(
                f"the store {redact_url(url)} evicts keys (maxmemory-policy {policy}), which would lose leases: "
                "set `maxmemory-policy noeviction`"
            )


def _listen(server: grpc.aio.Server, address: str) -> str:
    if not address.startswith("unix:"):
        _probe(address)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:  # since grpcio 1.60; before it answered 0
        port = 0
    if address.startswith("unix:"):
        if not port:
            raise StartupError(f"cannot listen on {address}: is its directory there and writable?")
        return address
    if not port:
        raise StartupError(f"cannot listen on {address}: the port is taken or not allowed; give another --listen")
    return f"{address.rpartition(':')[0]}:{port}"


def _probe(address: str) -> None:
    """Refuse a port that is taken before gRPC tries it, which writes a line of its own to stderr."""
    host, _, port = address.rpartition(":")
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartupError(f"cannot listen on {address}: {error}; give another --listen") from None
    family, kind, protocol, _, where = infos[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            raise StartupError(f"cannot listen on {address}: {error.strerror}; give another --listen") from None


async def _restarted() -> None:
    log.warning("the embedded store is back; every acknowledged write is in it")


async def open_store(
    settings: Settings, how: Opening, *, max_ttl_s: float | None, data_nodes: int | None
) -> tuple[int, int]:
    """Open the partitions of an external store, or change what they were opened for.

    Args:
        settings: those of the store.
        how: ``new``, or ``lost``: it was in use and has lost its data.
        max_ttl_s: the longest lease, in seconds; None leaves it.
        data_nodes: data nodes a shard; None leaves them.

    Returns:
        How many partitions were opened, and changed.

    Raises:
        StartupError: the store cannot be used, or has not so many replicas.
        Unavailable: it loses them, or is lost, meanwhile.
    """
    store = await connect(settings.store, replicas=settings.replicas)
    try:
        await _check_replicas(store, settings)
        return await store.bootstrap(
            how,
            max_ttl_us=None if max_ttl_s is None else int(max_ttl_s * 1e6),
            replicas=None if data_nodes is None else settings.replicas,
            default_max_ttl_us=int(DEFAULT_MAX_TTL_S * 1e6),
        )
    finally:
        await store.close()


async def _check_replicas(store: Store, settings: Settings) -> None:
    """Ask before anything is written: partitions that differ would keep every coordinator out."""
    for shard in await store.infos("replication"):
        online = sum("state=online" in value for name, value in shard.items() if name.startswith("slave"))
        if shard["role"] == "master" and online < settings.replicas:
            raise StartupError(
                f"the store {redact_url(settings.store)} has {_replicas(online)} online, and --data-nodes "
                f"{settings.data_nodes} needs {_replicas(settings.replicas)}: start more, or give --data-nodes "
                f"{online + 1}; nothing was changed"
            )


def describe_store(settings: Settings, data_dir: Path) -> str:
    """Return the store as the line that announces the coordinator names it."""
    return (
        f"store: embedded, data: {data_dir}" if settings.store == "embedded" else f"store: {redact_url(settings.store)}"
    )
