"""Generates the Python code of the contract with a pinned toolchain.

``python proto/generate.py`` writes ``client/runlease/v1``; ``--check`` writes nothing and fails where the
committed code differs. The pins live here and nowhere else: code from grpcio-tools 1.62.3 imports with every
protobuf from 3.20.3 on, so an SDK embedded in a training image never forces an upgrade.
"""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "client"
PACKAGE = Path("runlease/v1")
TOOLCHAIN = ("grpcio-tools==1.62.3", "mypy-protobuf==3.6.0", "setuptools<81")


def toolchain() -> Path:
    """Return the Python of an environment that holds exactly the pinned toolchain."""
    env = ROOT / ".venv-proto"
    python = env / "bin" / "python"
    stamp = env / "toolchain"
    if not stamp.exists() or stamp.read_text() != "\n".join(TOOLCHAIN):
        if env.is_symlink() and not env.exists():  # of an environment that has gone: venv does not clear a link
            env.unlink()
        venv.create(env, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TOOLCHAIN], check=True)
        stamp.write_text("\n".join(TOOLCHAIN))
    return python


def generate(into: Path) -> list[Path]:
    """Write the generated modules and stubs below ``into``; returns their paths."""
    python = toolchain()
    protos = sorted(str(path.relative_to(PROTO)) for path in (PROTO / PACKAGE).glob("*.proto"))
    (into / PACKAGE).mkdir(parents=True, exist_ok=True)
    options = [f"--{name}={into}" for name in ("python_out", "pyi_out", "grpc_python_out", "mypy_grpc_out")]
    plugin = f"--plugin=protoc-gen-mypy_grpc={python.parent / 'protoc-gen-mypy_grpc'}"
    command = [str(python), "-m", "grpc_tools.protoc", f"--proto_path={PROTO}", plugin, *options, *protos]
    subprocess.run(command, check=True)
    return sorted((into / PACKAGE).glob("*_pb2*"))


def check() -> int:
    """Compare the committed code with a fresh generation; returns the process's exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        names = [path.name for path in fresh]
        _, differing, missing = filecmp.cmpfiles(scratch / PACKAGE, TARGET / PACKAGE, names, shallow=False)
    stale = sorted(differing + missing)
    for name in stale:
        print(f"{PACKAGE / name} is stale: run `make proto` and commit the result", file=sys.stderr)
    return 1 if stale else 0


def main() -> int:
    """Run the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(description="Generate client/runlease/v1 from proto/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the committed code is stale")
    if parser.parse_args().check:
        return check()
    for path in generate(TARGET):
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
