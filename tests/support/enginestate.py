"""What a store has of a run, in the words of the lease engine in plain Python."""

from __future__ import annotations

import json


def texts(flat: list[bytes]) -> dict[str, str]:
    items = [item.decode() for item in flat]
    return dict(zip(items[::2], items[1::2], strict=True))


def state_of(record: dict[str, str], attempts: dict[str, str], ckpts: list[str], now_us: int) -> dict[str, object]:
    """Return what `Engine.state` says, as the store has it."""
    if not record:
        assert not attempts
        assert not ckpts
        return {}
    expiry, avail = int(record["expiry"]), int(record["avail"])
    count = int(record["attempt"])
    assert {name.split(".")[0] for name in attempts if name[0].isdigit()} == {str(n + 1) for n in range(count)}
    rows = []
    for number in range(1, count + 1):
        one = {name: attempts.get(f"{number}.{name}", "") for name in ("end", "counts", "released", "previous")}
        fence, start, next_step = (int(attempts[f"{number}.{name}"]) for name in ("fence", "start", "next"))
        assert attempts[f"fence.{fence}"] == str(number)
        row = (fence, one["end"] or "running", start, one["counts"] == "1", one["released"] == "1")
        rows.append((*row, one["previous"], next_step))
    assert sum(name.startswith("fence.") for name in attempts) == count
    return {
        "fence": int(record["fence"]),
        "end": record["end"],
        "attempts": rows,
        "final": expiry == 0,
        "next": int(record["next"]),
        "held": record["end"] == "" and now_us < expiry and "deleted" not in record,
        "closed": now_us < avail,
        "revoked": "revoked" in record,
        "deleted": "deleted" in record,
        "checkpoints": sorted((int(step), int(fence)) for step, fence, *_ in (name.split(":") for name in ckpts)),
        "children": int(record.get("children", 0)),
        "parent": (record.get("parent", ""), int(record.get("parent_step", -1))),
        "keys": sorted(json.loads(record.get("auto", "[]"))),
        "nonces": sorted(name.removeprefix("nonce.") for name in attempts if name.startswith("nonce.")),
    }
