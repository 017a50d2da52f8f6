"""What operators do: break, update, link, delete, undelete, watch and list, by calls and by commands."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import runlease
from runlease.records import Event

from tests.support.cli import RUNLEASE, Cli
from tests.support.coordinator import CoordinatorProcess
from tests.support.terminal import Terminal
from tests.support.wait import until


@pytest.fixture(scope="module")
def cli(coordinator: CoordinatorProcess) -> Cli:
    return Cli(coordinator.env)


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[runlease.Client]:
    with runlease.Client(coordinator.address) as client:
        yield client


def ended(client: runlease.Client, project: str, id: str, **how: object) -> int:
    fence = client.acquire(project, id, nonce=os.urandom(8).hex(), resume="allow", **how).fence
    client.release(project, id, fence)
    return fence


# break


def test_a_revoked_lease_is_not_renewed(client: runlease.Client, project: str) -> None:
    grant = client.acquire(project, "r", nonce="n1", ttl_s=30)
    assert client.break_lease(project, "r", grant.fence, reason="the node hangs") == grant.fence
    record = client.get_run(project, "r")
    assert (record.state, record.revoked) == ("running", True)
    assert client.break_lease(project, "r", grant.fence, reason="a repetition") == grant.fence
    with pytest.raises(runlease.StaleFence) as refusal:
        client.renew(project, "r", grant.fence)
    assert refusal.value.reason == "REVOKED"
    client.release(project, "r", grant.fence, "preempted")
    again = client.acquire(project, "r", nonce="n2", resume="allow")
    assert not client.get_run(project, "r").revoked
    client.release(project, "r", again.fence)


def test_a_holder_learns_that_its_lease_was_broken_by_force(
    coordinator: CoordinatorProcess, client: runlease.Client, project: str
) -> None:
    run = runlease.init(project=project, id="r", ttl=5, coordinator=coordinator.address)
    fence = client.break_lease(project, "r", run.fence, reason="it is in the way", force=True)
    assert fence > run.fence
    assert client.break_lease(project, "r", run.fence, reason="a repetition", force=True) == fence
    # Somebody else has it at once, under a higher fence yet.
    taken = client.acquire(project, "r", nonce="n", resume="allow")
    assert (taken.fence > fence, taken.previous_state) == (True, "killed")
    assert run.lease.lost.wait(30)
    with pytest.raises(runlease.LeaseLost):
        run.lease.check()
    assert not run.finish()
    with pytest.raises(runlease.StaleFence):
        client.break_lease(project, "r", run.fence + 1, reason="of nobody")
    client.release(project, "r", taken.fence)
    with pytest.raises(runlease.StaleFence) as free:
        client.break_lease(project, "r", taken.fence, reason="nobody has it")
    assert free.value.reason == "LEASE_FREE"


@pytest.mark.parametrize("force", [False, True])
def test_break_shows_and_breaks(cli: Cli, client: runlease.Client, project: str, force: bool) -> None:
    grant = client.acquire(project, "r", nonce="n", ttl_s=30)
    path, flags = f"{project}/r", ["--force"] if force else []
    shown, done = cli("break", path, "--reason", "node 17 hangs", "--yes", *flags).stdout.splitlines()
    assert shown.startswith(f"{path} ({client.get_run(project, 'r').name}): held by ")
    for part in (f":{os.getpid()}", "since 20", "attempt 1", "nothing logged yet"):
        assert part in shown
    record = client.get_run(project, "r")
    if force:
        assert done == f"broke {path}: it is free now, under fence {record.fence}"
        assert (record.state, record.fence > grant.fence) == ("killed", True)
        assert "nobody holds" in cli("break", path, "--reason", "again", "--yes", "--force").stdout
    else:
        assert done.startswith(f"revoked {path}: it is free once its holder releases it, in ")
        assert record.revoked
        assert "revoked: not renewed any more" in cli("show", path).stdout
        assert "revoked already" in cli("break", path, "--reason", "again", "--yes").stdout
        client.release(project, "r", grant.fence)
    assert "reason: node 17 hangs" in cli("show", path).stdout


def test_the_line_of_a_refusal_can_be_pasted(cli: Cli, client: runlease.Client, project: str) -> None:
    client.acquire(project, "a b'c", nonce="n1", ttl_s=30)
    with pytest.raises(runlease.LeaseHeld) as refusal:
        client.acquire(project, "a b'c", nonce="n2", resume="allow")
    line = str(refusal.value).partition("take it away: ")[2]
    assert line == f"runlease break {project}/a-b-c --reason TEXT"
    cli(*line.split()[1:], "--yes", "--force")
    assert client.get_run(project, "a b'c").state == "killed"


@pytest.mark.parametrize(("answer", "status", "state"), [("y", 0, "killed"), ("n", 1, "running")])
def test_break_asks_at_a_terminal(
    cli: Cli, client: runlease.Client, project: str, answer: str, status: int, state: str
) -> None:
    client.acquire(project, "r", nonce="n", ttl_s=30)
    with Terminal([*RUNLEASE, "break", f"{project}/r", "--force", "--reason", "x"], cli.env) as terminal:
        terminal.read_until("[y/N]")
        terminal.type(f"{answer}\n")
        assert terminal.wait() == status
    assert client.get_run(project, "r").state == state


# update, link, delete, undelete


def test_update_changes_what_is_given(cli: Cli, client: runlease.Client, project: str) -> None:
    ended(client, project, "r", tags=["old"], config={"lr": 0.1, "layers": 2}, notes="kept")
    path = f"{project}/r"
    flags = ["--config", "lr=0.25", "--config", 'opt={"name": "adam"}', "--summary", 'best="s3://b/7"']
    said = cli("update", path, "--name", "baseline", "--tag", "en", "--tag", "x", *flags).stdout
    assert said == f"updated {path} (baseline)\n"
    record = client.get_run(project, "r")
    assert (record.name, record.tags, record.notes) == ("baseline", ("en", "x"), "kept")
    assert record.config == {"lr": 0.25, "layers": 2, "opt": {"name": "adam"}}
    assert record.summary == {"best": "s3://b/7"}
    cli("update", path, "--no-tags", "--notes", "")
    record = client.get_run(project, "r")
    assert (record.name, record.tags, record.notes) == ("baseline", (), "")


def test_link_by_command(cli: Cli, coordinator: CoordinatorProcess, client: runlease.Client, project: str) -> None:
    for id, first in (("first", 0), ("second", 3)):
        with runlease.init(project=project, id=id, coordinator=coordinator.address) as run:
            for step in range(first, first + 3):
                run.log({"loss": float(step)}, step=step)
    said = cli("link", f"{project}/second", "--continues", f"{project}/first", "--step", "2").stdout
    assert said == f"{project}/second continues {project}/first up to step 2; its next step is 6\n"
    assert [point.step for point in client.history(project, "second").rows()] == list(range(6))
    assert f"{project}/first up to step 2, as it stood in its attempt 1\n" in cli("show", f"{project}/second").stdout
    assert cli.json("show", f"{project}/second")["parent"]["id"] == "first"
    assert "cycle" in cli("link", f"{project}/first", "--continues", "second", status=1).stderr
    assert "already" in cli("link", f"{project}/second", "--continues", "first", "--step", "0", status=1).stderr
    assert "first" in cli("delete", f"{project}/first", "--yes", "--purge", status=1).stderr


def test_delete_undelete_purge(cli: Cli, client: runlease.Client, project: str) -> None:
    ended(client, project, "r")
    path = f"{project}/r"
    cli("delete", path, "--yes", "--reason", "wrong data")
    with pytest.raises(runlease.RunDeleted, match=f"runlease undelete {path}"):
        client.acquire(project, "r", nonce="n", resume="allow")
    assert cli("undelete", path, "--reason", "it was right").stdout == f"undeleted {path}: finished\n"
    assert "nothing to do" in cli("undelete", path).stdout
    assert [run["id"] for run in cli.json("ls", project)] == ["r"]
    assert cli("delete", path, "--yes", "--purge").stdout.splitlines()[-1] == f"purged {path}"
    cli("show", path, status=3)
    cli("undelete", path, status=3)
    ended(client, project, "gone")
    cli("delete", f"{project}/gone", "--yes")
    assert cli("delete", f"{project}/gone", "--yes", "--purge").stdout.splitlines()[-1] == f"purged {project}/gone"
    kinds = [event["kind"] for event in cli.json("events", path)]
    assert kinds == ["created", "released", "deleted", "undeleted", "deleted", "purged"]


# ls


def test_ls_filters_by_text_and_host(cli: Cli, client: runlease.Client, project: str) -> None:
    for id in ("alpha-1", "alpha-2", "beta"):
        ended(client, project, id, name=f"of {id[:2]}")
    host = client.get_run(project, "beta").holder.host

    def ids(*flags: str) -> list[str]:
        return [run["id"] for run in cli.json("ls", project, *flags)]

    assert ids("--text", "alpha") == ["alpha-2", "alpha-1"]
    assert ids("--text", "of be") == ["beta"]
    assert ids("--text", "a-1", "--state", "finished", "--host", host) == ["alpha-1"]
    assert ids("--text", "%") == ids("--host", "nowhere") == ids("--text", "alpha", "--state", "running") == []
    assert "--text" in cli("ls", project, "--text", "none").stdout


def test_lists_of_a_large_project_page_and_narrow(client: runlease.Client, project: str) -> None:
    for number in range(130):
        fence = client.acquire(project, f"r{number}", nonce="n", tags=["even"] if number % 2 == 0 else []).fence
        if number % 10:
            client.release(project, f"r{number}", fence, "failed")
    newest = [f"r{number}" for number in range(129, -1, -1)]
    by_update = sorted(client.list_runs(project), key=lambda run: -run.updated_s)
    assert [run.id for run in client.list_runs(project)] == [run.id for run in by_update]
    assert {run.id for run in by_update} == set(newest)
    live = [run.id for run in client.list_runs(project, states=["running"])]
    assert live == [id for id in newest if id.endswith("0")]
    even = [run.id for run in client.list_runs(project, states=["failed"], tags=["even"])]
    assert len(even) == 52
    assert [run.id for run in client.list_runs(project, states=["running", "failed"], text="r12")] == [
        run.id for run in by_update if run.id.startswith("r12")
    ]
    assert project in {run.project for run in client.list_runs(states=["running"])}


# watch and events


def test_a_watch_sees_what_happens_from_its_call_on(client: runlease.Client, project: str) -> None:
    ended(client, project, "before")
    with client.watch(project) as everything, client.watch(project, "a/b") as one:
        ended(client, project, "a/b")
        ended(client, f"{project}-other", "r")
        ended(client, project, "r")
        seen = [next(everything) for _ in range(4)]
        assert [(event.id, event.kind) for event in seen] == [
            *(("a-b", "created"), ("a-b", "released")),
            *(("r", "created"), ("r", "released")),
        ]
        assert [next(one).kind for _ in range(2)] == ["created", "released"]
        assert seen[1].details == {"outcome": "finished"}
    # Given an event's cursor, a watch goes on behind it.
    with client.watch(project, after=seen[1].cursor) as rest:
        assert [next(rest) for _ in range(2)] == seen[2:]
    with pytest.raises(StopIteration):
        next(everything)


def test_events_are_those_so_far(client: runlease.Client, project: str) -> None:
    ended(client, project, "r")
    stream = client.events(project)
    assert [event.kind for event in stream] == ["created", "released"]
    ended(client, project, "r")
    with client.watch(project, after=stream.cursor) as rest:
        assert [next(rest).kind for _ in range(2)] == ["granted", "released"]
    everywhere = [replace(event, cursor="") for event in client.events() if event.project == project]
    assert everywhere == [replace(event, cursor="") for event in client.events(project)]
    assert list(client.events(project, "none")) == []


@pytest.mark.parametrize("how", ["stream", "client"])
def test_a_watch_ends_when_it_is_closed_elsewhere(coordinator: CoordinatorProcess, project: str, how: str) -> None:
    client = runlease.Client(coordinator.address)
    stream = client.watch(project)
    seen: list[Event] = []
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    ended(client, project, "r")
    until(lambda: len(seen) == 2)
    (stream if how == "stream" else client).close()
    reader.join(30)
    assert not reader.is_alive()
    client.close()


def test_a_watch_loses_and_repeats_nothing_when_the_coordinator_restarts(
    start_coordinator: Callable[..., CoordinatorProcess], project: str
) -> None:
    coordinator = start_coordinator()
    broken: list[runlease.RunleaseError] = []
    with runlease.Client(coordinator.address, timeout_s=30) as client, client.watch(on_broken=broken.append) as stream:
        fences = []
        for restart in range(3):
            for id in ("a", "b"):  # of two partitions
                fences.append(ended(client, f"{project}-{id}", "r"))
            if restart == 0:
                first = next(stream)  # the rest is on its way when the stream breaks
            if restart < 2:
                coordinator.kill() if restart else coordinator.stop()
                coordinator.start()
        seen = [first, *(next(stream) for _ in range(11))]
        assert len(broken) >= 1
    told = sorted((event.path, event.fence, event.kind) for event in seen)
    expected = [
        (f"{project}-{'ab'[place % 2]}/r", fence, kind)
        for place, fence in enumerate(fences)
        for kind in ("created" if place < 2 else "granted", "released")
    ]
    assert told == sorted(expected)


def test_a_coordinator_that_stops_does_not_wait_for_those_who_watch(
    start_coordinator: Callable[..., CoordinatorProcess], project: str
) -> None:
    coordinator = start_coordinator("--drain", "60")  # above the time that this test gives it to stop
    with runlease.Client(coordinator.address) as client:
        stream = client.watch(project)
        assert coordinator.stop() == 0
        stream.close()


def test_watch_by_command_until_ctrl_c(cli: Cli, client: runlease.Client, project: str) -> None:
    with Terminal([*RUNLEASE, "watch", f"{project}/r"], cli.env) as terminal:
        terminal.read_until("Ctrl-C ends it")
        fence = ended(client, project, "r")
        ended(client, project, "other")
        terminal.read_until("outcome: finished")
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert f"{project}/r  created  attempt 1  fence {fence}  holder: " in terminal.text
        assert "other" not in terminal.text
        assert "Traceback" not in terminal.text


def test_events_by_command_go_on_without_a_gap(cli: Cli, client: runlease.Client, project: str) -> None:
    fence = ended(client, project, "r")
    created, released = cli("events", f"{project}/r").stdout.splitlines()
    assert f"{project}/r  created  attempt 1  fence {fence}" in created
    assert released.endswith("outcome: finished")
    follower = subprocess.Popen(
        [*RUNLEASE, "events", project, "--follow", "-o", "json"],
        env=cli.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert follower.stderr is not None
    with follower.stdout, follower.stderr:
        kinds = [json.loads(follower.stdout.readline())["kind"] for _ in range(2)]
        ended(client, project, "r")
        kinds += [json.loads(follower.stdout.readline())["kind"] for _ in range(2)]
        follower.terminate()
        follower.wait(30)
    assert kinds == ["created", "released", "granted", "released"]
    assert "no events" in cli("events", f"{project}/none").stdout
    assert cli.json("events", f"{project}/none") == []


def test_an_event_cannot_steer_the_terminal(cli: Cli, client: runlease.Client, project: str) -> None:
    fence = ended(client, project, "r")
    client.delete_run(project, "r", fence, reason="wrong \u202e data")
    assert "wrong \\u202e data" in cli("events", project).stdout


# wrong use


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["break", "p/r"], "--reason"),
        (["break", "p/r", "--reason", "x"], "--yes"),
        (["break", "_/r", "--reason", "x", "--yes"], "'_'"),
        (["update", "p/r"], "nothing to change"),
        (["update", "p/r", "--tag", "x", "--no-tags"], "--no-tags"),
        (["update", "p/r", "--config", "lr"], "KEY=JSON"),
        (["update", "p/r", "--config", "=1"], "KEY=JSON"),
        (["update", "p/r", "--config", "name=text"], "with the quotes"),
        (["update", "p/r", "--config", "lr=NaN"], "not JSON"),
        (["update", "p/r", "--summary", "deep=" + "[" * 100_000], "not JSON"),
        (["link", "p/r"], "--continues"),
        (["link", "p/r", "--continues", ""], "empty"),
        (["link", "p/r", "--continues", "x" * 65], "64"),
        (["link", "p/r", "--continues", "q", "--step", "-1"], "--step"),
        (["delete", "p/r", "--purge"], "--yes"),
        (["undelete"], "PROJECT/RUN"),
        (["undelete", "p/"], "empty"),
        (["watch", "../x"], "'..'"),
        (["watch", "p/"], "empty"),
        (["events", "bad project"], "'bad project'"),
        (["events", "p", "-o", "yaml"], "yaml"),
        (["ls", "--text", "two\nlines"], "control"),
        (["ls", "--host", "x" * 1000], "256"),
    ],
)
def test_wrong_use_is_explained(cli: Cli, args: list[str], names: str) -> None:
    done = cli(*args, status=2)
    assert names in done.stdout + done.stderr


def test_what_the_coordinator_finds_malformed_is_wrong_use_too(cli: Cli, client: runlease.Client, project: str) -> None:
    grant = client.acquire(project, "r", nonce="n")
    path = f"{project}/r"
    for args, names in (
        (["break", path, "--yes", "--reason", " "], "reason"),
        (["break", path, "--yes", "--reason", "a\x1b[31mb"], "control"),
        (["break", path, "--yes", "--reason", "x" * 1025], "1024"),
        (["update", path, "--name", "two\nlines"], "control"),
        (["update", path, "--tag", "x" * 65], "64"),
        (["update", path, "--config", "k" * 257 + "=1"], "256"),
        (["undelete", path, "--reason", "a\nb"], "nothing to do"),
    ):
        status = 0 if names == "nothing to do" else 2
        done = cli(*args, status=status)
        assert names in done.stdout + done.stderr
    assert not client.get_run(project, "r").revoked
    client.release(project, "r", grant.fence)


def test_unknown_runs_and_absent_coordinators_have_their_exit_codes(cli: Cli, project: str) -> None:
    none = f"{project}/none"
    for command in (
        ["break", none, "--reason", "x", "--yes"],
        ["update", none, "--name", "x"],
        ["link", none, "--continues", "other"],
        ["undelete", none],
        ["delete", none, "--purge", "--yes"],
    ):
        assert none in cli(*command, status=3).stderr
    assert "no coordinator answers" in cli("watch", "--coordinator", "127.0.0.1:1", status=5).stderr


def test_watch_refuses_a_run_without_a_project_and_a_cursor_that_is_none(client: runlease.Client) -> None:
    with pytest.raises(runlease.InvalidArgument):
        client.watch(id="r")
    for cursor in ("x", "64=1-0", "*=1-", "1=1-1,", "=1-1"):
        with pytest.raises(runlease.InvalidArgument, match="after"):
            client.watch(after=cursor)
