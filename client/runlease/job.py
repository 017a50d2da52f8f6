"""What the environment says of the job start that this process belongs to.

Pure functions of an environment and an argument vector. torchrun's variables are those that its local agent gives
to each worker (PyTorch, `torch/distributed/elastic/agent/server/local_elastic_agent.py`, and the log directory from
`elastic/multiprocessing/api.py`); Slurm's are those of the manual pages sbatch(1) and srun(1) and of Slurm's own
`src/common/env.c`. Two questions are kept apart:

- the **group**: which processes started together? New after every restart, so that a restarted rank never takes the
  lease of its dead predecessor for its own.
- the **automatic keys**: which run does this job go on with? The same after a restart.
"""

from __future__ import annotations

import hashlib
import os.path
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from runlease.exceptions import InvalidArgument

MAX_GROUP = 128
MAX_KEY = 512

#: Names of jobs that are a terminal: Slurm names salloc's jobs `interactive`, and those of `srun --pty bash` after the
#: shell. PyTorch Lightning and NeMo tell interactive jobs by `bash` and `interactive` too.
_INTERACTIVE_JOBS = frozenset({"interactive", "bash", "sh", "zsh", "tcsh", "csh", "fish", "ksh", "dash"})
#: Programs that are a prompt or a notebook: what runs there changes from one `init` to the next.
_PROMPTS = frozenset(
    {"IPython", "ipython", "ipython3", "ipykernel", "ipykernel_launcher.py", "colab_kernel_launcher.py"}
)
#: slurm.h: IDs from here on are no steps of `srun` (batch script ...fb, external ...fc, interactive ...fa).
_FIRST_PSEUDO_STEP = 0xFFFFFFF0
_INTERACTIVE_STEP = 0xFFFFFFFA
#: slurmd runs a copy of the submitted script under this name.
_SLURM_SCRIPT = "slurm_script"
#: Slurm; PBS Pro and Torque; Grid Engine (`undefined` outside of an array); LSF (0 outside of one).
_ARRAY_INDEX = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "PBS_ARRAYID", "SGE_TASK_ID", "LSB_JOBINDEX")
_RUN_DIRECTORY = re.compile(r"(.*)[/\\]attempt_\d+[/\\]\d+[/\\][^/\\]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Job:
    """The job start of a process; '' and None where the environment says nothing."""

    job_id: str = ""
    """For people: Slurm's job ID (``123``, in an array ``123_4``), else torchrun's run ID."""

    group: str = ""
    """Identity of this start of the job: equal for all its ranks, new after a restart; at most 128 characters."""

    rank: int | None = None
    """This process's number among all ranks, from 0."""


def job_of(environ: Mapping[str, str]) -> Job:
    """Return the job that a process with this environment belongs to; never raises."""
    torchrun = environ.get("TORCHELASTIC_RUN_ID", "")
    # `none` is what torchrun calls a job that nobody named.
    shown = _slurm_job(environ) or (torchrun if torchrun != "none" else "")
    return Job(
        job_id=_short("", quote(shown, safe=" :@+,=[]()", errors="surrogateescape")),
        group=_torchrun_group(environ) if torchrun else _slurm_group(environ),
        rank=_rank(environ),
    )


def automatic_keys(
    environ: Mapping[str, str], argv: Sequence[str], *, auto_key: str | None, module: str = ""
) -> list[str]:
    """Return the keys by which ``resume="auto"`` finds its run, most explicit first, without the resume file's.

    `TORCHELASTIC_RUN_ID` is no key: it is fresh at each start, or ``none``.

    Args:
        environ: the process's environment.
        argv: `sys.argv`.
        auto_key: the argument of `init`; default `RUNLEASE_AUTO_KEY`.
        module: what `main_module` returns.

    Raises:
        InvalidArgument: the key given is empty, too long or more than a line.
    """
    keys = []
    if auto_key is None:
        auto_key = environ.get("RUNLEASE_AUTO_KEY") or None
    if auto_key is not None:
        keys.append("key:" + _checked_key(auto_key))
    job = _slurm_job(environ)
    if job and not is_interactive(environ, argv):
        step = _step(environ)
        place = f"{_escaped(environ.get('SLURM_CLUSTER_NAME', ''))}/{_escaped(job)}" + (f".{step}" if step else "")
        script = quote(script_of(environ, argv, module), safe="/ :@+,=", errors="surrogateescape")
        keys.append(_short("slurm:", f"{place}/{script}", MAX_KEY))
    return keys


def script_of(environ: Mapping[str, str], argv: Sequence[str], module: str = "") -> str:
    """Return what is running, by a name that the same command has on every machine; '' at Python's own prompt.

    That is ``-m MODULE``, the script as it was typed if that was a relative path, else its file's name. Without
    ``module``, a module goes by its file's name.
    """
    program = argv[0] if argv else ""
    if module and program not in ("-c", "-m", ""):
        return f"-m {module.removesuffix('.__main__')}"
    if program in ("", "-", "-c", "-m"):
        return program
    typed = os.path.normpath(program)
    name = os.path.basename(typed)
    if name == "__main__.py":  # a package or a directory that was run
        return os.path.basename(os.path.dirname(typed)) or name
    if name == _SLURM_SCRIPT and environ.get("SLURM_JOB_NAME"):
        return environ["SLURM_JOB_NAME"]  # by default the name of the script that was submitted
    return (name if os.path.isabs(typed) else typed).replace(os.sep, "/")


def main_module() -> str:
    """Return the module that ``python -m`` runs in this process, or ''."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return getattr(spec, "name", None) or ""


def array_index(environ: Mapping[str, str]) -> str:
    """Return this process's index in its job array, or ''."""
    for name in _ARRAY_INDEX:
        index = environ.get(name, "")
        if index and index != "undefined" and not (name == "LSB_JOBINDEX" and index == "0"):
            return index
    return ""


def is_interactive(environ: Mapping[str, str], argv: Sequence[str]) -> bool:
    """Return whether somebody types here: one job ID then stands for whatever they start next.

    Told by the job's name, by a prompt or notebook as the program, or by Slurm's interactive step or pseudo terminal.
    """
    name = os.path.basename(environ.get("SLURM_JOB_NAME", "")).lstrip("-").lower()
    if name in _INTERACTIVE_JOBS or script_of({}, argv).rpartition("/")[2] in {"", *_PROMPTS}:
        return True
    # sbatch hands its caller's environment on, so within a batch job these two may be those of the caller's terminal.
    if environ.get("ENVIRONMENT") == "BATCH":
        return False
    return bool(environ.get("SLURM_PTY_PORT")) or _number(environ.get("SLURM_STEP_ID")) == _INTERACTIVE_STEP


def _torchrun_group(environ: Mapping[str, str]) -> str:
    # Run ID, address and port may all be the same at the next start (`none`, 127.0.0.1, 29500), and so is the count
    # of restarts within a start. On one node the agent's log directory, made anew by each, tells starts apart; in a
    # job of Slurm the job's own count of restarts does. The step does not count: each node's torchrun may have one.
    parts = [
        environ.get(name, "")
        for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    ]
    if environ.get("GROUP_WORLD_SIZE") == "1":
        directory = _RUN_DIRECTORY.fullmatch(environ.get("TORCHELASTIC_ERROR_FILE", ""))
        parts.append(directory.group(1) if directory else "")
    if _slurm_job(environ):
        parts += [environ.get("SLURM_CLUSTER_NAME", ""), _slurm_job(environ), environ.get("SLURM_RESTART_COUNT", "0")]
    return _short("torchrun:", "/".join(map(_escaped, parts)))


def _slurm_group(environ: Mapping[str, str]) -> str:
    if not _slurm_job(environ) or _tasks(environ) < 2:
        return ""
    parts = [
        environ.get("SLURM_CLUSTER_NAME", ""),
        _slurm_job(environ),
        environ.get("SLURM_STEP_ID", ""),
        environ.get("SLURM_RESTART_COUNT", "0"),  # not set before the first restart
    ]
    return _short("slurm:", "/".join(map(_escaped, parts)))


def _slurm_job(environ: Mapping[str, str]) -> str:
    """Return ``JOB`` or, in an array, ``ARRAYJOB_TASK``; '' outside of Slurm."""
    job, task = environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
    if job and task:
        return f"{job}_{task}"
    return environ.get("SLURM_JOB_ID", "") or environ.get("SLURM_JOBID", "")


def _tasks(environ: Mapping[str, str]) -> int:
    """Return how many tasks of Slurm started together with this process."""
    step = _number(environ.get("SLURM_STEP_ID"))
    batch_script = environ.get("ENVIRONMENT") == "BATCH" and step is None
    if batch_script or (step is not None and step >= _FIRST_PSEUDO_STEP):
        return 1  # SLURM_NTASKS is what the job may start there, and this is not one of them
    return _number(environ.get("SLURM_STEP_NUM_TASKS")) or _number(environ.get("SLURM_NTASKS")) or 1


def _step(environ: Mapping[str, str]) -> int:
    """Return the number of the step of `srun`; 0 for the first, and outside of any."""
    step = _number(environ.get("SLURM_STEP_ID")) or 0
    return step if step < _FIRST_PSEUDO_STEP else 0


def _rank(environ: Mapping[str, str]) -> int | None:
    rank = _number(environ.get("RANK"))
    if rank is None and _slurm_job(environ) and _tasks(environ) > 1:
        rank = _number(environ.get("SLURM_PROCID"))
    return rank


def _number(text: str | None) -> int | None:
    return int(text) if text and len(text) <= 10 and text.isascii() and text.isdigit() else None


def _checked_key(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(f"auto_key is a string, not {type(key).__name__}", field="auto_key")
    longest = MAX_KEY - len("key:")
    if not key:
        raise InvalidArgument("auto_key is empty: give a name of the job that stays the same", field="auto_key")
    if len(key) > longest:
        raise InvalidArgument(f"auto_key is at most {longest} characters, this one has {len(key)}", field="auto_key")
    if _CONTROL.search(key):
        raise InvalidArgument(f"auto_key={key!r}: one line of text, without control characters", field="auto_key")
    return key


def _escaped(part: str) -> str:
    return quote(part, safe=":@+,=[]", errors="surrogateescape")


def _short(kind: str, text: str, longest: int = MAX_GROUP) -> str:
    """Return ``kind + text``, with a digest in place of a text that is too long."""
    if len(kind) + len(text) <= longest:
        return kind + text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{kind}{text[: longest - len(kind) - len(digest) - 1]}~{digest}"
