"""From nothing to the first grant, the cost of the import, the memory of an idle coordinator."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import grpc
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2

from tests.bench import processes


def start_to_first_grant_s() -> float:
    """Return the seconds from starting a coordinator on a new directory to a lease."""
    began = time.perf_counter()
    with processes.coordinator() as coordinator, grpc.insecure_channel(coordinator.address) as channel:
        leases_pb2_grpc.LeaseServiceStub(channel).Acquire(
            leases_pb2.AcquireRequest(
                run=runs_pb2.RunRef(project="bench", id="first"), nonce="n", holder=runs_pb2.Holder(host="h")
            ),
            timeout=30,
            wait_for_ready=True,
        )
        return time.perf_counter() - began


def import_ms(module: str) -> float:
    """Return the milliseconds that a new interpreter takes to import a module and end."""
    code = f"import {module}, os; os._exit(0)"  # what tears an interpreter down is not the import
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0"})
    return (time.perf_counter() - began) * 1e3
