"""What the environment says of a job: its group, rank and automatic keys, under torchrun, Slurm, both and neither."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.exceptions import InvalidArgument
from runlease.job import (
    MAX_GROUP,
    MAX_KEY,
    Job,
    array_index,
    automatic_keys,
    is_interactive,
    job_of,
    script_of,
)

TRAIN = ["train.py", "--lr", "0.1"]

#: A task of `srun` in a batch job, as slurmd sets it.
STEP = {
    "SLURM_CLUSTER_NAME": "alps",
    "SLURM_JOB_ID": "815",
    "SLURM_JOB_NAME": "train.sbatch",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "ENVIRONMENT": "BATCH",
}
#: A process that the batch script starts by itself.
BATCH = {name: value for name, value in STEP.items() if "STEP" not in name} | {"SLURM_PROCID": "0"}
ARRAY = {"SLURM_ARRAY_JOB_ID": "800", "SLURM_ARRAY_TASK_ID": "15"}
#: The interactive step of `salloc`, as seen on a cluster with Slurm 23.
SALLOC = {
    "SLURM_CLUSTER_NAME": "alps",
    "SLURM_JOB_ID": "816",
    "SLURM_JOB_NAME": "my_name",
    "SLURM_PTY_PORT": "34889",
    "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_PROCID": "0",
}


def torchrun(rank: int = 0, start: str = "none_x1", **changes: str) -> dict[str, str]:
    """A worker of `torchrun` on one node, without a name for the job: only its log directory is fresh."""
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_ERROR_FILE": f"/tmp/torchelastic_ab/{start}/attempt_0/{rank}/error.json",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "GROUP_WORLD_SIZE": "1",
        "RANK": str(rank),
    } | changes


def without(environ: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


def test_no_job() -> None:
    assert job_of({}) == Job(job_id="", group="", rank=None)
    assert automatic_keys({}, TRAIN, auto_key=None) == []


# --- groups ---


def test_ranks_of_one_torchrun_are_a_group() -> None:
    jobs = [job_of(torchrun(rank)) for rank in range(4)]
    assert [job.rank for job in jobs] == [0, 1, 2, 3]
    assert len({job.group for job in jobs}) == 1
    assert jobs[0].group.startswith("torchrun:")


@pytest.mark.parametrize(
    "change",
    [
        {"TORCHELASTIC_RUN_ID": "other"},
        {"TORCHELASTIC_RESTART_COUNT": "1"},
        {"MASTER_ADDR": "node7"},
        {"MASTER_PORT": "29501"},
        # The same command again: of all that torchrun sets, its log directory alone differs.
        {"TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_ab/none_x2/attempt_0/0/error.json"},
    ],
)
def test_another_start_of_torchrun_is_another_group(change: dict[str, str]) -> None:
    assert job_of(torchrun() | change).group not in ("", job_of(torchrun()).group)


def test_a_log_directory_is_no_part_of_a_group_of_several_nodes() -> None:
    # Given two nodes, each with a log directory of its own.
    one = torchrun(0, "none_x1", GROUP_WORLD_SIZE="2", MASTER_ADDR="node1")
    two = torchrun(8, "none_y2", GROUP_WORLD_SIZE="2", MASTER_ADDR="node1")
    assert job_of(one).group == job_of(two).group


@pytest.mark.parametrize("path", ["", "error.json", "/tmp/error.json", "/a/attempt_x/0/e", "/a/attempt_0/error.json"])
def test_an_error_file_of_an_unknown_form_is_left_out(path: str) -> None:
    assert job_of(torchrun(TORCHELASTIC_ERROR_FILE=path)).group == job_of(torchrun(TORCHELASTIC_ERROR_FILE="")).group


def test_tasks_of_one_step_are_a_group() -> None:
    jobs = [job_of(STEP | {"SLURM_PROCID": str(rank)}) for rank in range(4)]
    assert [job.rank for job in jobs] == [0, 1, 2, 3]
    assert {job.group for job in jobs} == {"slurm:alps/815/0/0"}


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_CLUSTER_NAME": "jura"},
        {"SLURM_JOB_ID": "816"},
        {"SLURM_STEP_ID": "1"},
        {"SLURM_RESTART_COUNT": "1"},
        ARRAY,
    ],
)
def test_another_start_of_a_step_is_another_group(change: dict[str, str]) -> None:
    assert job_of(STEP | change).group not in ("", job_of(STEP).group)


@pytest.mark.parametrize(
    "environ",
    [
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},  # `srun -n 1` in a job of four tasks
        BATCH,  # four tasks may be started there, this is none of them
        SALLOC,
        SALLOC | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"},
        STEP | {"SLURM_STEP_ID": "4294967291"},
        without(STEP, "SLURM_JOB_ID"),
    ],
)
def test_a_single_task_is_no_group(environ: dict[str, str]) -> None:
    assert (job_of(environ).group, job_of(environ).rank) == ("", None)


def test_a_step_is_told_by_its_older_variables_too() -> None:
    # Given what scripts set that imitate srun: no step.
    environ = {"SLURM_JOBID": "815", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
    assert job_of(environ) == Job(job_id="815", group="slurm:/815//0", rank=1)


def test_torchrun_in_slurm_is_torchruns_group_of_this_start_of_the_job() -> None:
    # Given one torchrun a node, of the same rendezvous; on one cluster by one srun, elsewhere by one srun a node.
    nodes = [
        STEP
        | {"SLURM_PROCID": str(node), "SLURM_STEP_ID": step}
        | torchrun(8 * node, f"r_{node}", TORCHELASTIC_RUN_ID="r", GROUP_WORLD_SIZE="2", MASTER_ADDR="node1")
        for node, step in ((0, "0"), (1, "0"), (1, "1"))
    ]
    groups = {job_of(environ).group for environ in nodes}
    assert len(groups) == 1
    assert groups.pop().startswith("torchrun:")
    assert [job_of(environ).rank for environ in nodes] == [0, 8, 8]
    assert job_of(nodes[0]).job_id == "815"
    # When the job is requeued, with the same rendezvous on the same node, it is another group.
    assert job_of(nodes[0] | {"SLURM_RESTART_COUNT": "1"}).group != job_of(nodes[0]).group


@pytest.mark.parametrize(
    ("text", "rank"), [("3", 3), ("0", 0), ("", None), ("-1", None), ("x", None), ("9" * 11, None)]
)
def test_rank(text: str, rank: int | None) -> None:
    assert job_of({"RANK": text}).rank == rank
    assert job_of(STEP | {"SLURM_PROCID": text}).rank == rank
    assert job_of(STEP | {"RANK": "7", "SLURM_PROCID": text}).rank == 7


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        (STEP, "815"),
        (STEP | ARRAY, "800_15"),
        (STEP | torchrun(TORCHELASTIC_RUN_ID="r"), "815"),
        (torchrun(TORCHELASTIC_RUN_ID="exp 7"), "exp 7"),
        (torchrun(), ""),
    ],
)
def test_job_id(environ: dict[str, str], shown: str) -> None:
    assert job_of(environ).job_id == shown


VARIABLES = sorted(set(STEP) | set(SALLOC) | set(ARRAY) | set(torchrun()) | {"SLURM_RESTART_COUNT", "SLURM_JOBID"})
#: Text of an environment: no NUL; any byte, those outside of UTF-8 as lone surrogates.
TEXTS = st.one_of(
    st.sampled_from(["", "0", "1", "2", "none", "interactive", "4294967290"]),
    st.binary(max_size=300).map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")),
)
ENVIRONS = st.dictionaries(st.sampled_from(VARIABLES), TEXTS)


@settings(deadline=None)
@given(environ=ENVIRONS, argv=st.lists(TEXTS, max_size=2), module=TEXTS)
def test_whatever_the_environment_holds_the_answer_is_sendable(
    environ: dict[str, str], argv: list[str], module: str
) -> None:
    job = job_of(environ)
    keys = automatic_keys(environ, argv, auto_key=None, module=module)
    for text, longest in [(job.job_id, MAX_GROUP), (job.group, MAX_GROUP), *((key, MAX_KEY) for key in keys)]:
        assert len(text) <= longest
        assert re.fullmatch(r"[ -~]*", text), "one line of printable ASCII"
    assert all(key.startswith("slurm:") for key in keys)


@settings(deadline=None)
@given(environ=ENVIRONS, rank=st.integers(0, 99), local=st.integers(0, 9))
def test_no_rank_leaves_its_group(environ: dict[str, str], rank: int, local: int) -> None:
    other = {"RANK": str(rank), "SLURM_PROCID": str(rank), "LOCAL_RANK": str(local), "SLURM_LOCALID": str(local)}
    assert job_of(environ | other).group == job_of(environ).group


@settings(deadline=None)
@given(
    name=st.sampled_from(["TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"]),
    one=TEXTS.filter(bool),
    two=TEXTS.filter(bool),
)
def test_groups_are_equal_only_if_their_parts_are(name: str, one: str, two: str) -> None:
    groups = [job_of(torchrun(**{name: text})).group for text in (one, two)]
    assert (groups[0] == groups[1]) == (one == two)


def test_long_identities_keep_apart() -> None:
    long = [job_of(torchrun(TORCHELASTIC_RUN_ID="x" * 300 + end)).group for end in "ab"]
    assert len(set(long)) == 2
    assert {len(group) for group in long} == {MAX_GROUP}
    keys = [automatic_keys(STEP, ["x" * 600 + end], auto_key=None)[0] for end in "ab"]
    assert len(set(keys)) == 2
    assert {len(key) for key in keys} == {MAX_KEY}


def test_parts_do_not_run_into_one_another() -> None:
    one = torchrun(MASTER_ADDR="a/b", MASTER_PORT="1")
    two = torchrun(MASTER_ADDR="a", MASTER_PORT="b/1")
    assert job_of(one).group != job_of(two).group


# --- automatic keys ---


@pytest.mark.parametrize(
    ("environ", "argv", "keys"),
    [
        (STEP, TRAIN, ["slurm:alps/815/train.py"]),
        (BATCH, TRAIN, ["slurm:alps/815/train.py"]),
        (BATCH | ARRAY, TRAIN, ["slurm:alps/800_15/train.py"]),
        (STEP | {"SLURM_STEP_ID": "2"}, TRAIN, ["slurm:alps/815.2/train.py"]),
        (BATCH | {"SLURM_STEP_ID": "4294967291"}, TRAIN, ["slurm:alps/815/train.py"]),  # the batch script's own
        (STEP | {"SLURM_RESTART_COUNT": "3"}, TRAIN, ["slurm:alps/815/train.py"]),
        (STEP, ["/data/copy/train.py"], ["slurm:alps/815/train.py"]),
        (STEP, ["b/train.py"], ["slurm:alps/815/b/train.py"]),
        (without(STEP, "SLURM_CLUSTER_NAME"), TRAIN, ["slurm:/815/train.py"]),
        (torchrun(TORCHELASTIC_RUN_ID="r"), TRAIN, []),
        (STEP | torchrun(), TRAIN, ["slurm:alps/815/train.py"]),
    ],
)
def test_the_key_of_a_slurm_job(environ: dict[str, str], argv: list[str], keys: list[str]) -> None:
    assert automatic_keys(environ, argv, auto_key=None) == keys


def test_a_requeued_job_in_another_directory_has_the_same_key() -> None:
    requeued = STEP | {"SLURM_RESTART_COUNT": "1", "PWD": "/scratch/2", "SLURM_PROCID": "0"}
    assert automatic_keys(STEP, TRAIN, auto_key=None) == automatic_keys(requeued, ["./train.py"], auto_key=None)


@pytest.mark.parametrize(
    ("given_key", "variable", "keys"),
    [
        ("mine", None, ["key:mine", "slurm:alps/815/train.py"]),
        ("mine", "theirs", ["key:mine", "slurm:alps/815/train.py"]),
        (None, "theirs", ["key:theirs", "slurm:alps/815/train.py"]),
        (None, "", ["slurm:alps/815/train.py"]),
        ("größe 😀", None, ["key:größe 😀", "slurm:alps/815/train.py"]),
        ("x" * 508, None, ["key:" + "x" * 508, "slurm:alps/815/train.py"]),
    ],
)
def test_a_key_that_is_given_comes_first(given_key: str | None, variable: str | None, keys: list[str]) -> None:
    environ = STEP if variable is None else STEP | {"RUNLEASE_AUTO_KEY": variable}
    assert automatic_keys(environ, TRAIN, auto_key=given_key) == keys


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "empty"),
        ("x" * 509, "at most 508"),
        ("a\nb", "one line"),
        ("a\x00", "one line"),
        ("\x85", "one line"),
        ("a\u2028b", "one line"),
        ("\udc80", "one line"),
        (7, "not int"),
        (b"k", "not bytes"),
    ],
)
def test_a_key_that_is_malformed(key: object, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as caught:
        automatic_keys({}, TRAIN, auto_key=key)
    assert caught.value.field == "auto_key"


# --- interactive jobs ---


@pytest.mark.parametrize("name", ["bash", "sh", "zsh", "interactive", "-bash", "/bin/bash", "Interactive"])
@pytest.mark.parametrize("environ", [STEP, BATCH, SALLOC])
def test_interactive_by_the_jobs_name(name: str, environ: dict[str, str]) -> None:
    named = environ | {"SLURM_JOB_NAME": name}
    assert is_interactive(named, TRAIN)
    assert automatic_keys(named, TRAIN, auto_key=None) == []
    assert automatic_keys(named, TRAIN, auto_key="mine") == ["key:mine"]


@pytest.mark.parametrize(
    "argv",
    [
        [""],
        [],
        ["/usr/bin/ipython"],
        ["/v/lib/IPython/__main__.py"],
        ["/v/lib/ipykernel_launcher.py", "-f", "kernel.json"],
        ["/v/lib/ipykernel/__main__.py"],
    ],
)
def test_interactive_by_a_prompt_or_notebook(argv: list[str]) -> None:
    assert is_interactive(BATCH, argv)
    assert automatic_keys(BATCH, argv, auto_key=None) == []


def test_interactive_by_slurms_terminal() -> None:
    assert is_interactive(SALLOC, TRAIN)
    assert is_interactive(without(SALLOC, "SLURM_PTY_PORT"), TRAIN)  # the interactive step
    assert is_interactive(without(SALLOC, "SLURM_STEP_ID"), TRAIN)  # the terminal, of `srun --pty`
    # Given a step of srun, typed at that terminal, whose variables it inherits.
    assert is_interactive(SALLOC | {"SLURM_STEP_ID": "0"}, TRAIN)


@pytest.mark.parametrize("name", ["train.sbatch", "wrap", "bash_tests", "non-interactive", "shell", ""])
def test_a_batch_job_is_not_interactive(name: str) -> None:
    assert not is_interactive(STEP | {"SLURM_JOB_NAME": name}, TRAIN)
    # Given a job that was submitted from an interactive one, whose variables sbatch handed on.
    assert not is_interactive(SALLOC | BATCH | {"SLURM_JOB_NAME": name}, TRAIN)


# --- scripts and arrays ---


@pytest.mark.parametrize(
    ("argv0", "module", "script"),
    [
        ("train.py", "", "train.py"),
        ("./train.py", "", "train.py"),
        ("a/../b/train.py", "", "b/train.py"),
        ("../train.py", "", "../train.py"),
        ("/data/x/train.py", "", "train.py"),
        ("/data/pkg/train.py", "pkg.train", "-m pkg.train"),
        ("/data/pkg/__main__.py", "pkg.__main__", "-m pkg"),
        ("/data/pkg/__main__.py", "", "pkg"),
        ("-c", "", "-c"),
        ("-", "", "-"),
        ("", "", ""),
    ],
)
def test_script(argv0: str, module: str, script: str) -> None:
    assert script_of({}, [argv0, "--flag"], module) == script


def test_a_submitted_python_script_goes_by_its_job() -> None:
    copy = ["/var/spool/slurmd/job00815/slurm_script"]
    assert script_of({"SLURM_JOB_NAME": "a.py"}, copy) == "a.py"
    assert script_of({}, copy) == "slurm_script"


@pytest.mark.parametrize("how", ["script", "absolute", "module", "package", "code", "stdin"])
def test_script_of_real_processes(how: str, tmp_path: Path) -> None:
    code = "import sys\nfrom runlease import job\nprint(repr(job.script_of({}, sys.argv, job.main_module())))\n"
    package = tmp_path / "pkg"
    package.mkdir()
    for name in ("__init__.py", "__main__.py", "train.py"):
        (package / name).write_text("" if name == "__init__.py" else code)
    arguments, script = {
        "script": (["pkg/train.py"], "pkg/train.py"),
        "absolute": ([str(package / "train.py")], "train.py"),
        "module": (["-m", "pkg.train"], "-m pkg.train"),
        "package": (["-m", "pkg"], "-m pkg"),
        "code": (["-c", code], "-c"),
        "stdin": (["-"], "-"),
    }[how]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        input=code,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == repr(script)


@pytest.mark.parametrize(
    ("environ", "index"),
    [
        ({}, ""),
        (ARRAY, "15"),
        ({"SLURM_ARRAY_TASK_ID": "0"}, "0"),
        ({"PBS_ARRAY_INDEX": "3"}, "3"),
        ({"SGE_TASK_ID": "undefined"}, ""),
        ({"SGE_TASK_ID": "4"}, "4"),
        ({"LSB_JOBINDEX": "0"}, ""),
        ({"LSB_JOBINDEX": "5"}, "5"),
    ],
)
def test_array_index(environ: dict[str, str], index: str) -> None:
    assert array_index(environ) == index


def test_tasks_of_an_array_keep_apart() -> None:
    tasks = [BATCH | ARRAY | {"SLURM_ARRAY_TASK_ID": str(index)} for index in range(3)]
    for one, two in itertools.combinations(tasks, 2):
        assert automatic_keys(one, TRAIN, auto_key=None) != automatic_keys(two, TRAIN, auto_key=None)
        assert job_of(one).job_id != job_of(two).job_id
