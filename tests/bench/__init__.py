"""What runlease costs, beside a bare grpc.aio server and etcd: `python -m tests.bench`, see the README."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when grpc is imported; servers that end are no news here
