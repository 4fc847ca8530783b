"""The status page's files, as a browser asks a whole daemon for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway import Gateway, request, running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("page"), gpus=1) as one:
        yield one


def test_the_page_and_its_files_on_every_port(gateway: Gateway) -> None:
    for port in (*gateway.ports, gateway.hub):
        page = request(port, "GET", "/comfygate/")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"<title>ComfyGate</title>" in page.body
        script = request(port, "GET", "/comfygate/page/page.js")
        assert (script.status, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        for answer in (page, script):
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")


def test_what_is_known_is_not_sent_again(gateway: Gateway) -> None:
    first = request(gateway.hub, "GET", "/comfygate/page/page.css")
    etag = first.headers["etag"]
    for known in (etag, f'W/{etag}, "x"', "*"):
        again = request(gateway.hub, "GET", "/comfygate/page/page.css", headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
        assert "content-length" not in again.headers
    assert request(gateway.hub, "GET", "/comfygate/page/page.css", headers={"If-None-Match": '"x"'}).status == 200


def test_head_says_how_long_it_is(gateway: Gateway) -> None:
    whole = request(gateway.hub, "GET", "/comfygate/")
    head = request(gateway.hub, "HEAD", "/comfygate/")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.body))


def test_without_the_slash_it_leads_there_with_its_query(gateway: Gateway) -> None:
    for target, location in (("/comfygate", "comfygate/"), ("/comfygate?hub=http://a:1", "comfygate/?hub=http://a:1")):
        answer = request(gateway.hub, "GET", target)
        assert (answer.status, answer.headers["location"]) == (308, location)


def test_what_is_not_there(gateway: Gateway) -> None:
    for target in ("/comfygate/page/", "/comfygate/page/none.js", "/comfygate/page/..%2f..%2fassets.py"):
        assert request(gateway.hub, "GET", target).status == 404
    assert request(gateway.hub, "POST", "/comfygate/").status == 404
