"""What the status page consists of, and what its policy lets it do."""

from __future__ import annotations

import re

import pytest

from comfygate.control.assets import FOLDER, StatusPage, content_security_policy

PAGE = StatusPage.load()


def connect_src(query: bytes) -> list[str]:
    directives = [one.split() for one in content_security_policy(query).decode("ascii").split(";")]
    (sources,) = [sources for name, *sources in directives if name == "connect-src"]
    return sources


def test_every_file_is_answered_and_named_by_the_page() -> None:
    text = PAGE.assets[b"/comfygate/"].body.decode()
    named = {f"/comfygate/{name}".encode() for name in re.findall(r'(?:src|href)="(page/[^"]+)"', text)}
    assert set(PAGE.assets) == {b"/comfygate/", *named}
    assert b"/comfygate" in PAGE
    assert b"/comfygate/page" not in PAGE
    assert b"/comfygate/page/../assets.py" not in PAGE


def test_the_page_holds_no_script_and_no_style_of_its_own() -> None:
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    for script in FOLDER.rglob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script.read_text("utf-8")
        )


def test_an_etag_changes_with_the_content() -> None:
    etags = {asset.etag for asset in PAGE.assets.values()}
    assert len(etags) == len(PAGE.assets)
    assert {asset.etag for asset in StatusPage.load().assets.values()} == etags


def test_the_page_reads_its_own_gate() -> None:
    assert connect_src(b"") == ["'self'"]
    assert b"default-src 'none'" in content_security_policy(b"")


@pytest.mark.parametrize(
    ("hub", "origin"),
    [
        (b"http://localhost:8188", "http://localhost:8188"),
        (b"http%3A%2F%2Fgpus.example%3A8188%2F", "http://gpus.example:8188"),
        (b"https://[::1]:8188/behind/", "https://[::1]:8188"),
    ],
)
def test_the_page_may_read_the_gate_that_is_named(hub: bytes, origin: str) -> None:
    assert connect_src(b"hub=" + hub) == ["'self'", origin]


@pytest.mark.parametrize(
    "hub",
    [
        b"*",
        b"javascript:alert(1)",
        b"http://*",
        b"http://a.example;script-src%20*",
        b"http://a.example%20*",
        b"http://a.example%0d%0aSet-Cookie:x",
        b"http://user@a.example",
        b"data:,",
        b"\xff",
    ],
)
def test_what_is_no_origin_changes_nothing(hub: bytes) -> None:
    assert content_security_policy(b"hub=" + hub) == content_security_policy(b"")
