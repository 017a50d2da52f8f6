"""How a process ends tells how its runs end, and a forked child has no run.

An uncaught exception or a non-zero `sys.exit` makes a run failed, KeyboardInterrupt killed, exit 0 finished. A
process that dies otherwise (SIGKILL, os._exit) says nothing: its lease expires and the run counts as crashed. A bare
``raise SystemExit(1)`` leaves no trace that a library can see: use ``with runlease.init(...)`` or `sys.exit`.
"""

from __future__ import annotations

import atexit
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import runlease

if TYPE_CHECKING:
    from runlease.runs import Run

#: At interpreter exit; `finish` before it may take longer.
EXIT_TIMEOUT_S = 5.0

_active: list[Run] = []
_outcome = "finished"
_installed = False
_exit = sys.exit
_hook = sys.excepthook


def watch(run: Run) -> None:
    """Finish the run at interpreter exit if nobody has, with the outcome of the process."""
    global _installed, _exit, _hook
    _active.append(run)
    if _installed:
        return
    _installed = True
    _exit, _hook = sys.exit, sys.excepthook
    sys.exit = _sys_exit
    sys.excepthook = _excepthook
    atexit.register(_finish_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_in_child)


def forget(run: Run) -> None:
    """The run is finished."""
    if run in _active:
        _active.remove(run)


def active() -> list[Run]:
    """Return the runs of this process that are not finished, in the order of their starts."""
    return list(_active)


class _Exit(SystemExit):
    """What our `sys.exit` raises: it notices when somebody catches it, and then the process goes on."""

    def __del__(self) -> None:
        """Take the outcome back, unless the interpreter itself has dropped the exception, which ends the process."""
        global _outcome
        if sys._getframe().f_back is not None:
            _outcome = "finished"


_Exit.__name__ = _Exit.__qualname__ = "SystemExit"


def _sys_exit(status: object = None, /) -> NoReturn:
    global _outcome
    try:
        _exit(status)  # type: ignore[arg-type]  # whatever the caller gave; others may have wrapped it before us
    except SystemExit as error:
        code = error.code
    _outcome = "finished" if code in (None, 0) else "failed"
    raise _Exit(code)


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    global _outcome
    _outcome = outcome_of(kind)
    _hook(kind, error, trace)


def outcome_of(kind: type[BaseException] | None) -> str:
    """Return the outcome that an exception (None: a clean end) means."""
    if kind is None:
        return "finished"
    return "killed" if issubclass(kind, KeyboardInterrupt) else "failed"


def _finish_all() -> None:
    for run in active():
        run.finish(_outcome, timeout=EXIT_TIMEOUT_S)


def _forget_in_child() -> None:
    for run in _active:
        run.forked()
    _active.clear()
    runlease.run = None
