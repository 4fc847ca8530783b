import pytest

from comfygate.routes import Kind, Metering, classify


@pytest.mark.parametrize("prefix", [b"", b"/api"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"POST", b"/prompt"),
        (b"GET", b"/prompt"),
        (b"GET", b"/queue"),
        (b"HEAD", b"/queue"),
        (b"POST", b"/queue"),
        (b"GET", b"/queue/all"),
        (b"POST", b"/interrupt"),
        (b"POST", b"/comfygate/validate"),
    ],
)
def test_what_the_control_plane_answers_with_and_without_api(method: bytes, path: bytes, prefix: bytes) -> None:
    route = classify(method, prefix + path, several=False)
    assert route.control
    assert route.path == path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"GET", b"/"),
        (b"DELETE", b"/queue"),
        (b"GET", b"/interrupt"),
        (b"GET", b"/prompts"),
        (b"GET", b"/queue/"),
        (b"GET", b"/api/view"),
        (b"GET", b"/history/a/b"),
        (b"GET", b"/userdata/prompt"),
        (b"GET", b"/apiprompt"),
        (b"GET", b"/queue%2Fall"),
    ],
)
def test_what_is_relayed_untouched(method: bytes, path: bytes) -> None:
    assert not classify(method, path, several=False).control


@pytest.mark.parametrize("path", [b"/%70rompt", b"/ap%69/prompt", b"/%70%72%6F%6d%70%74"])
def test_no_spelling_of_a_path_leads_around_the_gate(path: bytes) -> None:
    assert classify(b"POST", path, several=False).control


@pytest.mark.parametrize("method", [b"post", b"Post", b"pOST"])
def test_no_spelling_of_a_method_leads_around_the_gate(method: bytes) -> None:
    # aiohttp without its C extension reads each of them as POST.
    route = classify(method, b"/prompt", several=False)
    assert route.control
    assert Metering().metered(route)


@pytest.mark.parametrize("several", [False, True])
def test_histories_are_looked_up_since_comfyui_forgets_them(several: bool) -> None:
    assert classify(b"GET", b"/history/some-id", several=several).control
    assert classify(b"GET", b"/api/history", several=several).control
    assert classify(b"POST", b"/history", several=several).control
    assert not classify(b"DELETE", b"/history/some-id", several=several).control
    # No history of ComfyUI's: it says so itself.
    assert not classify(b"GET", b"/history/", several=several).control
    assert not classify(b"GET", b"/history/a/b", several=several).control


@pytest.mark.parametrize(
    ("method", "path", "metered"),
    [
        (b"POST", b"/prompt", True),
        (b"POST", b"/api/upload/image", True),
        (b"DELETE", b"/userdata/x", True),
        (b"PATCH", b"/internal/logs/subscribe", True),
        (b"GET", b"/queue", True),
        (b"HEAD", b"/api/queue", True),
        (b"GET", b"/history", True),
        (b"GET", b"/history/an-id", False),
        (b"GET", b"/queue/all", False),
        (b"GET", b"/prompt", True),
        (b"GET", b"/view", False),
        (b"GET", b"/assets/index.js", False),
        (b"GET", b"/ws", False),
        (b"POST", b"/interrupt", False),
        (b"POST", b"/api/interrupt", False),
    ],
)
def test_what_costs_a_token_by_default(method: bytes, path: bytes, metered: bool) -> None:
    assert Metering().metered(classify(method, path, several=False)) is metered


def test_patterns_may_name_prefixes_and_any_method() -> None:
    metering = Metering(["* /history/*", "GET /view"])
    assert metering.metered(classify(b"GET", b"/history/x", several=False))
    assert metering.metered(classify(b"POST", b"/history/x", several=False))
    assert metering.metered(classify(b"HEAD", b"/view", several=False))
    assert not metering.metered(classify(b"POST", b"/prompt", several=False))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/prompt", Kind.PROMPT),
        (b"/queue/all", Kind.QUEUE),
        (b"/history/x", Kind.HISTORY),
        (b"/upload/mask", Kind.UPLOAD),
        (b"/api/upload/image", Kind.UPLOAD),
        (b"/api/%75pload/image", Kind.UPLOAD),
        (b"/settings/a.b", Kind.USER),
        (b"/api/users", Kind.USER),
        (b"/userdata/workflows%2Fa.json", Kind.USER),
        (b"/v2/userdata", Kind.USER),
        (b"/ws", Kind.WEBSOCKET),
        (b"/comfygate/status", Kind.GATE),
        (b"/uploads", Kind.OTHER),
        (b"/v2/other", Kind.OTHER),
        (b"/", Kind.OTHER),
        (b"*", Kind.OTHER),
    ],
)
def test_kinds(path: bytes, kind: Kind) -> None:
    assert classify(b"GET", path, several=True).kind is kind
