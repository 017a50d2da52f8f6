"""Keys, partitions, lists and the memory that an idle run takes."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.store.keys import PARTITIONS, partition_keys, partition_of, run_keys
from runlease_coordinator.store.runs import ListPosition
from runlease_coordinator.store.server_binary import find_server

from tests.support.stores import LiveStore, commit_entry, points_entry, writer_of
from tests.support.wait import until

PROJECTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
#: What `RunKeys` holds besides keys.
NO_KEYS = ("partition", "project", "canonical_id", "path")
IDS = st.from_regex(r"[A-Za-z0-9-]{1,64}", fullmatch=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[redis.Redis]:
    """A server in cluster mode, without slots: it tells which slot a key has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="rl-", dir="/tmp") as folder:
        flags = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--save", "", "--logfile", "log"]
        # By default its bus is 10 000 ports higher, which may not exist; 0 < port < 65536 is enough here.
        bus = ["--cluster-enabled", "yes", "--cluster-port", str(port - 1 if port > 1025 else port + 1)]
        process = subprocess.Popen([str(find_server(None).path), *flags, *bus], stdout=subprocess.DEVNULL)
        client = redis.Redis(port=port)

        def answers() -> bool:
            assert process.poll() is None
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        try:
            until(answers)
            yield client
        finally:
            client.close()
            process.kill()
            process.wait()


@settings(max_examples=200, deadline=None)
@given(project=PROJECTS, run_id=IDS)
@example(project="default", run_id="r")
def test_a_project_lives_in_one_slot(cluster: redis.Redis, project: str, run_id: str) -> None:
    # The partition is the project's own slot, mod 64; all its keys share the partition's slot.
    assert partition_of(project) == int(cluster.execute_command("CLUSTER KEYSLOT", project)) % PARTITIONS
    keys, partition = run_keys(project, run_id), partition_keys(partition_of(project))
    names = [getattr(keys, name) for name in keys.__slots__ if name not in NO_KEYS]
    names += [getattr(partition, name) for name in partition.__slots__]
    assert keys.partition is partition
    assert len(set(names)) == len(names)
    slots = {int(cluster.execute_command("CLUSTER KEYSLOT", name)) for name in names}
    assert len(slots) == 1


def test_partitions_have_slots_of_their_own(cluster: redis.Redis) -> None:
    slots = {int(cluster.execute_command("CLUSTER KEYSLOT", partition_keys(n).meta)) for n in range(PARTITIONS)}
    assert len(slots) == PARTITIONS


def test_scripts_write_no_key_outside_the_schema(live: LiveStore, project: str) -> None:
    before = set(live.raw.scan_iter(count=1000))
    fence = live.acquire(project, "a/b", config={"lr": "1"}, tags=["t"]).fence
    writer = writer_of(project, fence, run_id="a/b")
    live.run(live.metrics.open_writer(writer))
    live.run(live.metrics.append(writer, points_entry(1, [(0, 1.0)])))
    live.run(live.metrics.append(writer, commit_entry(2, 0, fence)))
    live.release(project, fence, run_id="a/b")
    live.run(live.runs.delete_run(project, "a/b", "a-b", fence, "why"))
    new = set(live.raw.scan_iter(count=1000)) - before
    keys = run_keys(project, "a-b")
    schema = {getattr(keys, name) for name in keys.__slots__ if name not in NO_KEYS}
    partition = {getattr(keys.partition, name) for name in keys.partition.__slots__}
    assert {keys.run, keys.attempts, keys.log, keys.seq, keys.ckpt, keys.ckptdoc} <= new
    assert new <= schema | partition


@pytest.mark.parametrize("project_given", [True, False])
def test_lists_find_every_run_once_the_newest_first(live: LiveStore, project: str, project_given: bool) -> None:
    expected: dict[str, list[str]] = {}
    for number in range(3):
        name = f"{project}-{number}"
        for index in range(25):
            live.release(name, live.acquire(name, f"run-{index}").fence, run_id=f"run-{index}")
            expected.setdefault(name, []).insert(0, f"run-{index}")
    for name in expected if project_given else [""]:
        found: list[tuple[str, str]] = []
        position: ListPosition | None = ListPosition()
        while position is not None:
            page, position = live.run(live.runs.list_runs(name, frozenset(), frozenset(), 7, position))
            assert len(page) == 7 or position is None
            found += [(run.project, run.id) for run in page if run.project in expected]
        wanted = {name: expected[name]} if project_given else expected
        assert found == [(name, run_id) for name in sorted(wanted, reverse=True) for run_id in wanted[name]]


def test_lists_are_narrowed_by_state_and_tags(live: LiveStore, project: str) -> None:
    for index in range(12):
        run_id = f"run-{index}"
        fence = live.acquire(project, run_id, tags=["even"] if index % 2 == 0 else ["odd", "x"]).fence
        if index % 3:
            live.release(project, fence, "failed", run_id)
    live.run(live.runs.delete_run(project, "run-1", "run-1", live.get(project, "run-1").run.fence, ""))

    def listed(states: set[RunState], tags: set[str]) -> set[str]:
        found: set[str] = set()
        position: ListPosition | None = ListPosition()
        while position is not None:
            call = live.runs.list_runs(project, frozenset(states), frozenset(tags), 2, position)
            page, position = live.run(call)
            assert not found & {run.id for run in page}
            found |= {run.id for run in page}
        return found

    assert listed({RunState.RUNNING}, set()) == {"run-0", "run-3", "run-6", "run-9"}
    assert listed({RunState.FAILED}, {"even"}) == {"run-2", "run-4", "run-8", "run-10"}
    assert listed(set(), {"odd", "x"}) == {"run-3", "run-5", "run-7", "run-9", "run-11"}
    assert listed({RunState.FINISHED}, set()) == set()


def test_an_idle_run_takes_at_most_3_kib(live: LiveStore, project: str) -> None:
    # Given a run that was acquired and released, as the embedded store is configured.
    live.release(project, live.acquire(project).fence)
    keys = run_keys(project, "r")
    own = [getattr(keys, name) for name in keys.__slots__ if name not in (*NO_KEYS, "runs", "auto")]
    sizes = {key: live.raw.memory_usage(key, samples=0) or 0 for key in own}
    assert sizes[keys.run] > 0
    assert sum(sizes.values()) <= 3 * 1024, sizes
