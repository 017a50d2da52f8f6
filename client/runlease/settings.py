"""What the SDK reads from its environment; arguments win over `RUNLEASE_*`, which win over `WANDB_*`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from runlease.exceptions import InvalidArgument

DEFAULT_COORDINATOR = "localhost:7373"
MODES = ("online", "offline", "online-or-offline", "disabled")
SPOOLS = ("overflow", "always", "never")
#: Where the SDK keeps what must outlive the process, below the working directory.
DEFAULT_DIRECTORY = ".runlease"


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment's part of the settings; an empty string is as good as unset."""

    coordinator: str = ""
    """`RUNLEASE_COORDINATOR`: HOST:PORT, several with commas, or a gRPC target such as `dns:///name:7373`."""

    token: str = field(default="", repr=False)
    """`RUNLEASE_TOKEN`: sent with every call."""

    project: str = ""
    """`RUNLEASE_PROJECT`, else `WANDB_PROJECT`."""

    run_id: str = ""
    """`RUNLEASE_RUN_ID`, else `WANDB_RUN_ID`."""

    resume: str = ""
    """`RUNLEASE_RESUME`, else `WANDB_RESUME`."""

    mode: str = ""
    """`RUNLEASE_MODE`: online, offline, online-or-offline or disabled."""

    auto_key: str = ""
    """`RUNLEASE_AUTO_KEY`: what an automatic resume finds the run by."""

    group: str = ""
    """`RUNLEASE_GROUP`: what the processes of one job start share."""

    spool: str = ""
    """`RUNLEASE_SPOOL`: overflow, always or never."""

    directory: str = ""
    """`RUNLEASE_DIR`: where spools lie, and what sinks remember."""

    silent: bool = False
    """`RUNLEASE_SILENT`: no entry lines on stderr."""

    proxy: bool = False
    """`RUNLEASE_PROXY`: let gRPC use the environment's HTTP proxy."""


def read_environment(environ: Mapping[str, str] = os.environ) -> Environment:
    """Read the environment; the only place that does."""

    def first(*names: str) -> str:
        return next((environ[name] for name in names if environ.get(name)), "")

    return Environment(
        coordinator=first("RUNLEASE_COORDINATOR"),
        token=first("RUNLEASE_TOKEN"),
        project=first("RUNLEASE_PROJECT", "WANDB_PROJECT"),
        run_id=first("RUNLEASE_RUN_ID", "WANDB_RUN_ID"),
        resume=first("RUNLEASE_RESUME", "WANDB_RESUME"),
        mode=first("RUNLEASE_MODE"),
        auto_key=first("RUNLEASE_AUTO_KEY"),
        group=first("RUNLEASE_GROUP"),
        spool=first("RUNLEASE_SPOOL"),
        directory=first("RUNLEASE_DIR"),
        silent=_flag("RUNLEASE_SILENT", first("RUNLEASE_SILENT")),
        proxy=_flag("RUNLEASE_PROXY", first("RUNLEASE_PROXY")),
    )


def _flag(name: str, text: str) -> bool:
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    raise InvalidArgument(f"{name}={text!r}: give 1 or 0", field=name)
