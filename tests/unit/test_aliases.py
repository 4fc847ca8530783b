"""Ids that nobody can guess, and listings that show nobody's."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from comfygate.aliases import Aliases, with_owner
from comfygate.prompts import parse_submission

ALIASES = Aliases(b"s" * 32)


def item(extra: Any, prompt: Any = None) -> list[Any]:
    return [1, "id", prompt or {"1": {"class_type": "A", "inputs": {}}}, extra, ["9"]]


def test_an_alias_is_the_same_as_long_as_the_secret_is() -> None:
    assert ALIASES.inside("me") == Aliases(b"s" * 32).inside("me") != Aliases(b"t" * 32).inside("me")
    assert ALIASES.inside("me") not in (ALIASES.inside("you"), ALIASES.shown("me"), "me")
    assert ALIASES.outside(ALIASES.inside("me")) == "me"
    assert ALIASES.outside("somebody") == "somebody"
    assert ALIASES.inside("") == ""
    assert ALIASES.inside("\ud800")  # whatever JSON may hold
    assert not ALIASES.inside("me").startswith("comfygate-")  # those are told our own news


def test_what_is_shown_is_the_same_for_both_ids_and_good_for_nothing() -> None:
    assert ALIASES.shown("me") == ALIASES.shown(ALIASES.inside("me"))
    assert ALIASES.shown("me") != ALIASES.shown("you")


def test_aliases_that_were_long_not_used_are_forgotten() -> None:
    one = Aliases(b"s" * 32)
    first = one.inside("first")
    for n in range(10_001):
        one.inside(str(n))
    assert one.outside(first) == first
    assert len(one._outside) == len(one._inside) == 10_000
    assert one.inside("first") == first
    long = one.inside("x" * 10**6)
    assert one.outside(long) == long and one.inside("x" * 10**6) == long
    assert len(one._outside) == len(one._inside) == 10_000


@pytest.mark.parametrize("client_id", ["me", 'a"b', "a\\", "ä ☃", 'x"},["9"]]'])
@pytest.mark.parametrize("dumps", [orjson.dumps, lambda value: json.dumps(value).encode()])
@pytest.mark.parametrize(
    ("extra", "prompt"),
    [
        ({}, None),
        ({"extra_pnginfo": {"workflow": {"client_id": "of the workflow"}}}, None),
        ({"text": 'a \\"client_id":"x"},["9"]]'}, None),
        ({}, {"1": {"class_type": "A", "inputs": {"client_id": "of a node", "text": '"client_id":"x"'}}}),
    ],
)
def test_items_and_entries_show_nobody(client_id: str, dumps: Any, extra: Any, prompt: Any) -> None:
    before, after = (
        item({**extra, "client_id": client_id}, prompt),
        item({**extra, "client_id": ALIASES.shown(client_id)}, prompt),
    )
    assert orjson.loads(ALIASES.concealed(dumps(before))) == after
    first = item({"client_id": client_id, **extra}, prompt)
    assert orjson.loads(ALIASES.concealed(dumps(first))) == after
    entry = {"prompt": before, "outputs": {"9": {"client_id": ["x"]}}, "status": {}}
    assert orjson.loads(ALIASES.concealed(dumps(entry))) == {**entry, "prompt": after}
    nobodys = dumps(item(extra, prompt))
    assert orjson.loads(ALIASES.concealed(nobodys)) == item(extra, prompt)


def test_an_entry_that_is_no_json_shows_nobody_either() -> None:
    text = json.dumps({"prompt": item({"client_id": "me", "a": 1}), "outputs": float("nan")}).encode()
    assert b'"me"' not in ALIASES.concealed(text)
    assert ALIASES.concealed(b'"client_id"') == b'"client_id"'


def test_what_is_quickly_found_is_not_read() -> None:
    submission = parse_submission(
        orjson.dumps({"prompt": {}, "client_id": "me", "extra_data": {"client_id": "x", "a": 1}})
    )
    text = submission.item(1, ["9"])
    assert text.endswith(b'"client_id":"me"},["9"]]')
    one = Aliases(b"s" * 32)
    one._concealed = None  # type: ignore[method-assign, assignment]
    assert one.concealed(text).endswith(b'"},["9"]]')


def test_a_submission_is_put_under_an_alias_once() -> None:
    body = orjson.dumps({"prompt": {}, "client_id": "me", "number": 1})
    under = ALIASES.under_alias("me", body)
    assert orjson.loads(under) == {"prompt": {}, "client_id": ALIASES.inside("me"), "number": 1}
    assert ALIASES.under_alias("me", under) is under
    assert ALIASES.under_alias(None, body) is body
    assert ALIASES.under_alias("", body) is body
    assert ALIASES.is_aliased("me", under) and not ALIASES.is_aliased("me", body)
    assert not ALIASES.is_aliased("", body)


def test_an_entry_gets_its_clients_own_id_back() -> None:
    entry = {"prompt": item({"client_id": ALIASES.inside("me")}), "outputs": {}}
    assert ALIASES.owner(entry) == "me"
    assert with_owner(entry, "me")["prompt"][3] == {"client_id": "me"}
    assert with_owner(entry, None)["prompt"][3] == {"client_id": "me"}
    for odd in ({}, {"prompt": []}, {"prompt": [1, 2, 3, None]}, {"prompt": item({})}):
        assert ALIASES.owner(odd) is None
        assert with_owner(dict(odd), "me") == odd
