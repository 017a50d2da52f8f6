"""The command line as a user runs it: real processes, a real coordinator, real terminals where one matters."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import runlease
from runlease.cli.output import to_json

from tests.support.cli import RUNLEASE, SECRET, Cli, without_module
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


@pytest.fixture(scope="module")
def speech(coordinator: CoordinatorProcess) -> str:
    """A run of two attempts: 0..9, a checkpoint at 4, then resumed at 5 with another learning rate to 7."""
    path = f"test-cli-{os.getpid()}/base/line"
    project, id = path.split("/", 1)
    start = {"project": project, "id": id, "resume": "allow", "coordinator": coordinator.address}
    with runlease.init(**start, name="first", tags=["nightly", "en"], notes="two\nlines", config={"lr": 0.1}) as run:
        for step in range(10):
            run.log({"loss": 1 / (step + 1), "odd": math.nan if step == 6 else 0.25}, step=step)
            if step == 4:
                run.commit_checkpoint(4, uri="s3://bucket/4", metadata={"n": 1})
    with runlease.init(**start, config={"lr": 0.2}) as run:
        assert run.step == 5
        for step in range(5, 8):
            run.log({"loss": 2.0, "odd": math.inf}, step=step)
    return path


@pytest.fixture
def held(client: runlease.Client, project: str) -> Iterator[str]:
    """A run that this process holds."""
    grant = client.acquire(project, "held", nonce="n", ttl_s=30)
    yield f"{project}/held"
    client.release(project, "held", grant.fence)


def end_run(client: runlease.Client, project: str, id: str) -> str:
    fence = client.acquire(project, id, nonce=f"n-{time.monotonic_ns()}").fence
    client.release(project, id, fence)
    return f"{project}/{id}"


# ls


def test_ls_shows_who_holds_what(cli: Cli, client: runlease.Client, project: str, held: str) -> None:
    end_run(client, project, "ended")
    header, _, first, second = cli("ls", project).stdout.splitlines()
    assert header.split()[:4] == ["state", "run", "name", "holder"]
    record = client.get_run(project, "held")
    assert first.split()[:2] == ["finished", f"{project}/ended"]
    assert second.split()[:5] == ["running", held, record.name, f"{record.holder.host}:{os.getpid()}", "1"]
    assert second.split()[5].endswith("s")


def test_ls_json_is_the_full_records(cli: Cli, client: runlease.Client, speech: str) -> None:
    (found,) = cli.json("ls", speech.partition("/")[0])
    (record,) = client.list_runs(speech.partition("/")[0])
    expected = to_json(record)
    assert found.pop("store_time_s") <= expected.pop("store_time_s")
    assert found == expected
    assert (found["points"], found["last_step"], found["tags"]) == (26, 9, ["nightly", "en"])


def test_ls_of_all_projects_is_newest_first(cli: Cli, client: runlease.Client, project: str) -> None:
    for name in ("c", "a", "b"):
        end_run(client, f"{project}-{name}", "one")
    rows = cli.json("ls", "--limit", "3")
    assert [row["project"] for row in rows] == [f"{project}-{name}" for name in ("b", "a", "c")]


def test_ls_filters(cli: Cli, client: runlease.Client, project: str, held: str) -> None:
    end_run(client, project, "ended")
    client.update_run(project, "ended", tags=["x", "y"])

    def ids(*flags: str) -> list[str]:
        return [run["id"] for run in cli.json("ls", project, *flags)]

    assert ids("--state", "running") == ["held"]
    assert ids("--state", "running", "--state", "finished") == ["ended", "held"]
    assert ids("--tag", "x", "--tag", "y") == ["ended"]
    assert ids("--tag", "x", "--tag", "z") == []
    cut = cli("ls", project, "--limit", "1")
    assert len(cut.stdout.splitlines()) == 3
    assert "--limit" in cut.stderr


def test_ls_without_runs_says_what_to_do(cli: Cli, project: str) -> None:
    assert "runlease demo" in cli("ls", project).stdout
    assert "--state" in cli("ls", project, "--state", "failed").stdout
    assert cli.json("ls", project) == []


# show


def test_show_tells_all(cli: Cli, client: runlease.Client, speech: str) -> None:
    record = client.get_run(*speech.split("/", 1))
    text = cli("show", speech).stdout
    for part in (speech, "(first)", "state", "finished", f"last fence {record.fence}", "nightly, en", "  lines"):
        assert part in text
    lines = text.splitlines()
    assert "next step    8 (highest logged: 9)" in lines
    assert next(line.split() for line in lines if "lr" in line) == ["lr", "0.2"]
    first, second = lines[lines.index("events") - 3 : lines.index("events") - 1]
    holder = f"{record.holder.host}:{os.getpid()}"
    assert first.split()[:7] == ["1", str(record.attempts[0].fence), holder, "0", "9", "20", "finished"]
    assert second.split()[:7] == ["2", str(record.fence), holder, "5", "7", "6", "finished"]
    assert second.endswith("lr: 0.1 -> 0.2")
    assert any(line.split()[0] == "4" and line.endswith("s3://bucket/4") for line in lines if line.split())


def test_show_json_is_the_full_record_by_either_id(cli: Cli, client: runlease.Client, speech: str) -> None:
    project, id = speech.split("/", 1)
    expected = to_json(client.get_run(project, id))
    assert len(expected["attempts"]) == 2
    assert len(expected["checkpoints"]) == 1
    for form in (id, "base-line"):
        found = cli.json("show", f"{project}/{form}")
        assert found | {"store_time_s": 0} == expected | {"store_time_s": 0}


def test_show_of_a_held_run_names_holder_and_lease(cli: Cli, held: str) -> None:
    text = cli("show", held).stdout
    assert f":{os.getpid()} (user" in text
    assert "left of 30s, fence 1" in text


def test_an_id_cannot_steer_the_terminal(cli: Cli, client: runlease.Client, project: str) -> None:
    path = end_run(client, project, "a\x1b[31mred\rb")
    written_out = f"{project}/a\\x1b[31mred\\rb"
    assert written_out in cli("ls", project).stdout
    assert written_out in cli("show", path).stdout
    assert written_out in cli("delete", path, "--yes").stdout
    assert "\\x1b" in cli("show", path.replace("red", "blue"), status=3).stderr


# delete


def test_delete_shows_and_deletes(cli: Cli, client: runlease.Client, project: str) -> None:
    path = end_run(client, project, "gone")
    shown, deleted = cli("delete", path, "--yes", "--reason", "wrong data").stdout.splitlines()
    assert shown.startswith(f"{path} (")
    assert shown.endswith("finished, 1 attempt, 0 points")
    assert deleted == f"deleted {path}"
    assert cli.json("ls", project) == []
    assert cli.json("show", path)["state"] == "deleted"
    assert "the ID stays taken" in cli("show", path).stdout
    assert "was deleted before" in cli("delete", path, "--yes").stdout


def test_delete_asks_nobody_where_nobody_is(cli: Cli, client: runlease.Client, project: str) -> None:
    path = end_run(client, project, "kept")
    assert "--yes" in cli("delete", path, status=2).stderr
    assert client.get_run(project, "kept").state == "finished"


def test_a_held_run_is_not_deleted(cli: Cli, client: runlease.Client, held: str) -> None:
    refusal = cli("delete", held, "--yes", status=4).stderr
    assert f":{os.getpid()}" in refusal
    assert f"runlease break {held} --reason" in refusal
    assert client.get_run(*held.split("/")).state == "running"


@pytest.mark.parametrize(("answer", "status", "state"), [("y", 0, "deleted"), ("n", 1, "finished")])
def test_delete_asks_at_a_terminal(
    cli: Cli, client: runlease.Client, project: str, answer: str, status: int, state: str
) -> None:
    path = end_run(client, project, "asked")
    with Terminal([*RUNLEASE, "delete", path], cli.env) as terminal:
        terminal.read_until("[y/N]")
        terminal.type(f"{answer}\n")
        assert terminal.wait() == status
    assert client.get_run(project, "asked").state == state


def test_ctrl_c_at_the_question_deletes_nothing(cli: Cli, client: runlease.Client, project: str) -> None:
    path = end_run(client, project, "asked")
    with Terminal([*RUNLEASE, "delete", path], cli.env) as terminal:
        terminal.read_until("[y/N]")

        def interrupted() -> bool:
            # Python sees a signal that comes just before it reads only after that: then people press it again.
            terminal.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                terminal.process.wait(5)
            return terminal.process.returncode is not None

        until(interrupted)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.text
    assert client.get_run(project, "asked").state == "finished"


# history


def test_history_is_a_line_a_step(cli: Cli, speech: str) -> None:
    header, _, *rows = cli("history", speech).stdout.splitlines()
    assert header.split() == ["step", "loss", "odd"]
    assert [row.split() for row in rows] == [
        *([str(step), f"{1 / (step + 1):.6g}", "0.25"] for step in range(5)),
        *([str(step), "2", "inf"] for step in range(5, 8)),
    ]


def test_history_json_has_every_field_and_no_bare_nan(cli: Cli, client: runlease.Client, speech: str) -> None:
    rows = cli.json("history", speech, "--superseded")
    expected = [point._asdict() for point in client.history(*speech.split("/", 1), superseded=True).rows()]
    assert [{k: v for k, v in row.items() if k != "superseded"} for row in rows] == to_json(expected)
    assert {(row["step"], row["attempt"]) for row in rows if row["superseded"]} == {(s, 1) for s in range(5, 10)}
    assert [row["value"] for row in rows if row["key"] == "odd" and row["step"] == 6] == ["NaN", "Infinity"]
    assert "superseded" not in cli.json("history", speech)[0]


def test_history_marks_superseded_points(cli: Cli, speech: str) -> None:
    rows = cli("history", speech, "--superseded", "--key", "loss", "--min-step", "7").stdout.splitlines()[2:]
    told = [(row.split()[1], row.split()[3], row.endswith("yes")) for row in rows]
    assert told == [("7", "1", True), ("7", "2", False), ("8", "1", True), ("9", "1", True)]


def test_history_is_narrowed(cli: Cli, speech: str) -> None:
    rows = cli.json("history", speech, "--key", "loss", "--min-step", "2", "--max-step", "3")
    assert [(row["key"], row["step"]) for row in rows] == [("loss", 2), ("loss", 3)]
    assert cli.json("history", speech, "--writer", "rank3") == []
    assert "no such points" in cli("history", speech, "--key", "nothing").stdout
    assert "no such points" in cli("history", speech, "--keys-like", "l?s").stdout
    assert {row["key"] for row in cli.json("history", speech, "--keys-like", "l*", "--keys-like", "???s")} == {"loss"}


def test_history_is_thinned_out(cli: Cli, speech: str) -> None:
    rows = cli.json("history", speech, "--key", "loss", "--max-points", "4")
    # The first and the last point, and of those in between the lowest and the highest.
    assert [(row["step"], row["value"]) for row in rows] == [(0, 1.0), (4, 0.2), (5, 2.0), (7, 2.0)]


def test_history_of_an_empty_run(cli: Cli, held: str) -> None:
    assert cli("history", held).stdout == "no points yet\n"
    assert cli("history", held, "--plot").stdout == "no points yet\n"
    assert cli.json("history", held) == []


def test_history_plots_each_key_within_the_terminal(cli: Cli, speech: str) -> None:
    pytest.importorskip("plotext", reason="plots need the extra `plot`")
    lines = cli("history", speech, "--plot", "--superseded", COLUMNS="60").stdout.splitlines()
    assert lines[0] == "loss"
    assert "odd" in lines
    assert max(map(len, lines)) <= 60
    assert any("⠀" < sign <= "⣿" for line in lines for sign in line)
    assert any("x" in line for line in lines[1:17])


def test_a_missing_plotext_is_named(cli: Cli, speech: str) -> None:
    said = without_module("plotext", "history", speech, "--plot", env=cli.env)
    assert said == "runlease: no plot here: it needs plotext 6: pip install 'runlease[plot]'\n"


def test_a_reader_that_goes_away_is_no_error(cli: Cli, coordinator: CoordinatorProcess, project: str) -> None:
    # Given more output than a pipe holds, when the reader closes it after one line, then nothing is said.
    with runlease.init(project=project, id="long", coordinator=coordinator.address) as run:
        for step in range(3000):
            run.log({"loss": float(step)}, step=step)
    process = subprocess.Popen(
        [*RUNLEASE, "history", f"{project}/long", "-o", "json"],
        env=cli.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.readline() == "[\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 141


# colour, completion, help


def test_colour_is_for_terminals_that_want_it(cli: Cli, speech: str) -> None:
    plain_env = {name: value for name, value in cli.env.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    for env, wanted in ((plain_env, True), (plain_env | {"NO_COLOR": "1"}, False)):
        with Terminal([*RUNLEASE, "ls", speech.partition("/")[0]], env) as terminal:
            assert terminal.wait() == 0
            assert speech in terminal.text
            assert ("\x1b[" in terminal.text) is wanted


def test_the_shell_completes_commands(cli: Cli) -> None:
    done = cli(_RUNLEASE_COMPLETE="bash_complete", COMP_WORDS="runlease sh", COMP_CWORD="1")
    assert done.stdout == "plain,show\n"


COMMANDS = (
    *(
        "bootstrap",
        "break",
        "compare",
        "delete",
        "demo",
        "doctor",
        "events",
        "export",
        "generate-id",
        "history",
        "limits",
        "link",
        "ls",
    ),
    *("serve", "show", "sink", "sync", "undelete", "update", "version", "watch"),
)


def test_help_lists_the_commands_and_exit_codes(cli: Cli) -> None:
    text = cli("--help").stdout
    commands = text.partition("\nCommands:\n")[2].partition("\n\n")[0]
    assert tuple(line.split()[0] for line in commands.splitlines()) == COMMANDS
    for part in ("RUNLEASE_COORDINATOR", "NO_COLOR", "_RUNLEASE_COMPLETE=bash_source", "  5    no coordinator"):
        assert part in text
    assert cli("--version").stdout == f"runlease {runlease.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    text = cli(command, "-h").stdout
    assert text.startswith(f"Usage: runlease {command} ")
    assert max(map(len, text.splitlines())) <= 80


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = {"redis", "numpy", "plotext", "rich", "uvloop", "pandas", "runlease_coordinator"}
    code = f"import sys, runlease.cli; print(sys.modules.keys() & {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_ids_and_versions_need_no_coordinator(cli: Cli) -> None:
    first, second = (cli("generate-id", RUNLEASE_COORDINATOR="").stdout.strip() for _ in range(2))
    assert len(first) == len(second) == 8
    assert first != second
    found = cli.json("version")
    assert (found["runlease"], found["coordinator"]) == (runlease.__version__, "installed")
    assert all(found[name] for name in ("python", "grpcio", "protobuf"))
    assert f"grpcio       {found['grpcio']}" in cli("version").stdout.splitlines()


# errors


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["show"], "PROJECT/RUN"),
        (["show", "bad project/r"], "'bad project'"),
        (["show", "p/"], "empty"),
        (["show", "p/" + "x" * 65], "64"),
        (["ls", "-p"], "-p"),
        (["ls", "--state", "asleep"], "asleep"),
        (["ls", "--limit", "0"], "--limit"),
        (["ls", "_"], "'_'"),
        (["ls", "-o", "yaml"], "yaml"),
        (["ls", "--coordinator", "nowhere"], "HOST:PORT"),
        (["history", "p/r", "--min-step", "-1"], "--min-step"),
        (["history", "p/r", "--plot", "-o", "json"], "--plot"),
        (["history", "p/r", "--writer", "../x"], "'../x'"),
        (["demo", "--steps", "1"], "at least 1000"),
        (["nonsense"], "nonsense"),
        (["bootstrap", "embedded"], "runlease serve"),
    ],
)
def test_wrong_use_is_explained(cli: Cli, args: list[str], names: str) -> None:
    done = cli(*args, status=2)
    assert names in done.stdout + done.stderr


def test_an_unknown_run_is_told_by_its_exit_code(cli: Cli, project: str) -> None:
    for command in (["show"], ["history"], ["delete", "--yes"]):
        assert f"{project}/none" in cli(*command, f"{project}/none", status=3).stderr


def test_a_missing_coordinator_is_told_by_its_exit_code(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    # The environment names one that answers: the flag wins.
    refusal = cli("ls", "--token", SECRET, "--coordinator", address, status=5).stderr
    assert f"no coordinator answers at {address}" in refusal
    assert "runlease serve" in refusal


def test_ctrl_c_ends_a_call_that_nobody_answers(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with Terminal([*RUNLEASE, "ls", "--coordinator", address], cli.env) as terminal, server.accept()[0]:
            terminal.type("\x03")
            assert terminal.wait() == 130
            assert terminal.text == "^Crunlease: interrupted\r\n"
