"""What `init` was asked for: precedence, forms of `resume`, and every refusal naming its field, without any call."""

from __future__ import annotations

import json
import logging
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runlease.exceptions import InvalidArgument, InvalidRunId
from runlease.job import job_of
from runlease.request import HistoryPoint, Request, resolve
from runlease.settings import Environment, read_environment

FIELDS = ["project", "id", "resume", "resume_step", "name", "notes", "tags", "config"]
FIELDS += [
    "wait",
    "connect_timeout",
    "ttl",
    "mode",
    "resume_from",
    "fork_from",
    "auto_key",
    "group",
    "holder",
    "writer",
]
NOTHING: dict[str, Any] = dict.fromkeys(FIELDS)


def asked(environ: dict[str, str] | None = None, **given: Any) -> Request:
    arguments = NOTHING | {"on_lost": "raise", "strict": False} | given
    return resolve(read_environment(environ or {}), job_of(environ or {}), **arguments)


def test_defaults() -> None:
    request = asked()
    assert (request.project, request.resume, request.mode, request.by_id) == ("default", "never", "online", False)
    assert re.fullmatch(r"[0-9a-z]{8}", request.id)
    assert (request.name, request.notes, request.tags, request.config) == (None, None, None, {})
    assert (request.wait_s, request.connect_timeout_s, request.ttl_s, request.resume_step) == (None, 120.0, None, None)
    assert (request.auto, request.shares_id, request.group, request.member, request.writer) == (
        False,
        False,
        "",
        False,
        None,
    )


#: Argument, RUNLEASE_*, WANDB_*, default: the first that is there wins.
PRECEDENCE = [
    ("project", "project", "PROJECT", ("arg", "own", "theirs"), "default"),
    ("id", "id", "RUN_ID", ("arg", "own", "theirs"), None),
    ("resume", "resume", "RESUME", ("must", "allow", "auto"), "never"),
]


@pytest.mark.parametrize(("argument", "field", "variable", "values", "default"), PRECEDENCE)
@pytest.mark.parametrize("given_at", range(8))
def test_precedence(
    argument: str, field: str, variable: str, values: tuple[str, str, str], default: str | None, given_at: int
) -> None:
    # Given every subset of the three places.
    places = [value if given_at & (1 << bit) else None for bit, value in enumerate(values)]
    environ = {
        f"{prefix}_{variable}": value for prefix, value in zip(("RUNLEASE", "WANDB"), places[1:], strict=True) if value
    }
    if argument == "resume":
        environ["RUNLEASE_RUN_ID"] = "r"
    got = getattr(asked(environ, **{argument: places[0]}), field)
    expected = next((value for value in places if value), default)
    assert got == expected if expected is not None else got not in values


def test_an_empty_variable_is_none() -> None:
    environ = {
        "RUNLEASE_PROJECT": "",
        "WANDB_PROJECT": "theirs",
        "RUNLEASE_RUN_ID": "",
        "RUNLEASE_RESUME": "",
        "RUNLEASE_MODE": "",
    }
    request = asked(environ)
    assert (request.project, request.resume, request.mode) == ("theirs", "never", "online")


def test_the_mode_of_transport() -> None:
    assert asked({"RUNLEASE_MODE": "disabled"}).mode == "disabled"
    assert asked({"RUNLEASE_MODE": "disabled"}, mode="online").mode == "online"


def test_unknown_variables_are_ignored() -> None:
    assert asked({"RUNLEASE_PORT": "tcp://10.0.0.1:7373", "RUNLEASE_SERVICE_HOST": "10.0.0.1"}).project == "default"


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("ON", True), ("0", False), ("no", False), ("", False)]
)
def test_flags(text: str, value: bool) -> None:
    assert read_environment({"RUNLEASE_SILENT": text}).silent is value


def test_a_flag_that_is_none_names_its_variable() -> None:
    with pytest.raises(InvalidArgument, match="RUNLEASE_SILENT") as caught:
        read_environment({"RUNLEASE_SILENT": "perhaps"})
    assert caught.value.field == "RUNLEASE_SILENT"


@pytest.mark.parametrize(
    ("resume", "mode"), [(True, "auto"), (False, "never"), *((m, m) for m in ("never", "allow", "must", "auto"))]
)
def test_modes(resume: str | bool, mode: str) -> None:
    request = asked({"RUNLEASE_RESUME": "must"}, id="r", resume=resume)
    assert (request.resume, request.id, request.by_id) == (mode, "r", False)


def test_any_other_string_is_a_run_that_must_exist() -> None:
    request = asked(resume="nbs1e6hk")
    assert (request.resume, request.id, request.by_id) == ("must", "nbs1e6hk", True)


def test_a_run_named_by_resume_wins_over_the_environments() -> None:
    assert asked({"RUNLEASE_RUN_ID": "other"}, resume="nbs1e6hk").id == "nbs1e6hk"


def test_a_run_named_twice_may_be_spelled_in_two_ways() -> None:
    assert asked(id="a/b", resume="a-b").by_id
    with pytest.raises(InvalidArgument, match="names another run") as caught:
        asked(id="a/b", resume="a/c")
    assert caught.value.field == "resume"


def test_must_needs_an_id() -> None:
    with pytest.raises(InvalidArgument, match="RUNLEASE_RUN_ID") as caught:
        asked(resume="must")
    assert caught.value.field == "id"
    assert asked({"WANDB_RUN_ID": "r"}, resume="must").id == "r"


@pytest.mark.parametrize("resume", ["auto", True])
def test_automatic_keys_choose_the_run_unless_an_id_does(resume: str | bool) -> None:
    assert asked(resume=resume).auto
    for request in (asked(resume=resume, id="r"), asked({"RUNLEASE_RUN_ID": "r"}, resume=resume)):
        assert (request.auto, request.id, request.resume) == (False, "r", "auto")
    assert asked({"RUNLEASE_AUTO_KEY": "own"}, resume=resume).auto_key == "own"
    assert asked({"RUNLEASE_AUTO_KEY": "own"}, resume=resume, auto_key="arg").auto_key == "arg"


def test_points_in_a_history() -> None:
    rewind, fork = asked(resume_from="a/b?_step=7"), asked(fork_from="r?_step=0", id="new")
    assert (rewind.id, rewind.resume, rewind.resume_from) == ("a/b", "must", HistoryPoint("a/b", 7))
    assert (fork.id, fork.resume, fork.fork_from) == ("new", "never", HistoryPoint("r", 0))
    assert asked({"RUNLEASE_RUN_ID": "other"}, resume_from="r?_step=1").id == "r"
    assert asked({"RUNLEASE_RESUME": "must"}, fork_from="r?_step=1").resume == "never"


TORCHRUN = {"TORCHELASTIC_RUN_ID": "j", "MASTER_ADDR": "h", "MASTER_PORT": "1", "TORCHELASTIC_RESTART_COUNT": "0"}


@pytest.mark.parametrize(
    ("environ", "given", "member"),
    [
        ({}, {}, False),
        (TORCHRUN | {"RANK": "0"}, {}, False),
        (TORCHRUN | {"RANK": "3"}, {}, True),
        (TORCHRUN | {"RANK": "3"}, {"holder": True}, False),
        (TORCHRUN | {"RANK": "0"}, {"holder": False}, True),
        ({}, {"group": "g"}, False),
        ({}, {"group": "g", "holder": False}, True),
        ({"RUNLEASE_GROUP": "g", "RANK": "2"}, {}, True),
    ],
)
def test_who_holds_of_a_group(environ: dict[str, str], given: dict[str, Any], member: bool) -> None:
    assert asked(environ, **given).member is member


def test_ranks_without_an_id_share_the_groups() -> None:
    assert asked(TORCHRUN | {"RANK": "1"}).shares_id
    assert not asked(TORCHRUN | {"RANK": "1"}, id="r").shares_id
    assert not asked(TORCHRUN | {"RANK": "1"}, resume="auto").shares_id
    assert asked(TORCHRUN, group="mine").group == "mine"


def test_allow_without_an_id_warns_with_the_id_to_give(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "runlease"):
        request = asked(resume="allow")
    assert request.id in caplog.text
    caplog.clear()
    asked(resume="allow", id="r")
    asked()
    assert caplog.text == ""


REFUSED = [
    ("run.project", {"project": "a/b"}),
    ("run.project", {"project": ""}),
    ("run.project", {"project": 7}),
    ("run.id", {"id": ""}),
    ("run.id", {"id": "x" * 65}),
    ("run.id", {"id": 7}),
    ("run.id", {"resume": ""}),
    ("run.id", {"resume": "x" * 65}),
    ("resume", {"resume": 7}),
    ("resume", {"resume": b"must"}),
    ("resume_step", {"resume_step": -1}),
    ("resume_step", {"resume_step": 2**53}),
    ("resume_step", {"resume_step": 1.0}),
    ("resume_step", {"resume_step": True}),
    ("resume_step", {"resume_step": "7"}),
    ("name", {"name": 7}),
    ("notes", {"notes": ["a"]}),
    ("tags", {"tags": "baseline"}),
    ("tags", {"tags": [1]}),
    ("tags", {"tags": 5}),
    ("config", {"config": [1, 2]}),
    ("config", {"config": {"a": range}}),
    ("config", {"config": 5}),
    ("wait", {"wait": -1}),
    ("wait", {"wait": math.nan}),
    ("wait", {"wait": True}),
    ("wait", {"wait": "5"}),
    ("connect_timeout", {"connect_timeout": -0.1}),
    ("ttl", {"ttl": 4.99}),
    ("ttl", {"ttl": 0}),
    ("ttl", {"ttl": math.inf}),
    ("ttl", {"ttl": math.nan}),
    ("ttl", {"ttl": 90_000}),
    ("mode", {"mode": "airplane"}),
    ("spool", {"spool": "sometimes"}),
    ("spool", {"mode": "offline", "spool": "never"}),
    ("mode", {"mode": ""}),
    ("on_lost", {"on_lost": "panic"}),
    ("on_lost", {"on_lost": None}),
    ("resume_from", {"resume_from": "r"}),
    ("resume_from", {"resume_from": "r?_step=-1"}),
    ("resume_from", {"resume_from": "?_step=1"}),
    ("resume_from", {"resume_from": 7}),
    ("resume_from", {"resume_from": "r?_step=1", "resume": "must"}),
    ("resume_from", {"resume_from": "r?_step=1", "id": "s"}),
    ("fork_from", {"fork_from": "r?_step=1", "resume_from": "r?_step=1"}),
    ("resume_step", {"fork_from": "r?_step=1", "resume_step": 3}),
    ("auto_key", {"auto_key": ""}),
    ("auto_key", {"auto_key": "a\nb"}),
    ("group", {"group": "g" * 129}),
    ("group", {"group": 7}),
    ("holder", {"holder": False}),
    ("holder", {"holder": "yes", "group": "g"}),
    ("writer", {"writer": "rank 3"}),
    ("config", {"config": {"a": math.nan}}),
]


@pytest.mark.parametrize(("field", "given"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_name_their_field(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        asked(**given)
    assert caught.value.field == field
    assert isinstance(caught.value, InvalidRunId) == (field == "run.id")
    assert len(str(caught.value)) < 400


def test_what_is_wrong_in_the_environment_is_refused_too() -> None:
    for environ, field in (
        ({"RUNLEASE_PROJECT": "a b"}, "run.project"),
        ({"WANDB_RUN_ID": "x" * 65}, "run.id"),
        ({"RUNLEASE_MODE": "airplane"}, "mode"),
        ({"RUNLEASE_SPOOL": "sometimes"}, "spool"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            asked(environ)
        assert caught.value.field == field


def test_config_becomes_one_json_text_a_key() -> None:
    request = asked(config={"lr": 0.1, "layers": [1, 2], "note": "a\nb", "ünï": None, 3: True})
    assert {key: json.loads(text) for key, text in request.config.items()} == {
        "lr": 0.1,
        "layers": [1, 2],
        "note": "a\nb",
        "ünï": None,
        "3": True,
    }
    assert not any("\n" in text for text in request.config.values())


def test_a_callable_hears_of_the_loss() -> None:
    assert asked(on_lost=print).on_lost is print


def test_empty_is_not_the_same_as_not_given() -> None:
    request = asked(notes="", tags=[])
    assert (request.notes, request.tags) == ("", ())


def test_tags_may_come_one_by_one() -> None:
    assert asked(tags=(tag for tag in "ab")).tags == ("a", "b")


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=80),
    st.binary(max_size=8),
    st.lists(st.one_of(st.text(max_size=4), st.integers()), max_size=3),
    st.dictionaries(st.text(max_size=4), st.floats()),
)


@given(st.dictionaries(st.sampled_from(sorted(NOTHING)), ANYTHING))
def test_whatever_is_given_is_resolved_or_refused_by_name(given: dict[str, Any]) -> None:
    refused = None
    try:
        request = asked(**given)
    except InvalidArgument as error:
        refused = error
    if refused is not None:
        # `resume` may name the run, or ask for one that has no name.
        assert refused.field.removeprefix("run.") in (given.keys() | {"id"} if "resume" in given else given)
        return
    assert request.wait_s is None or request.wait_s >= 0
    assert request.ttl_s is None or request.ttl_s >= 5
    assert 1 <= len(request.id) <= 64


def test_the_default_environment_is_empty() -> None:
    assert read_environment({}) == Environment()
