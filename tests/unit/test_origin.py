import pytest

from comfygate.origin import same_origin


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"localhost:8181", b"http://localhost:8181"),
        (b"LocalHost:8181", b"http://localhost:8181"),
        (b"gpu.example", b"https://gpu.example"),
        (b"gpu.example", b"https://gpu.example:8443"),
        (b"gpu.example:8181", b"https://gpu.example"),
        (b"[::1]:8181", b"http://[::1]:8181"),
        (b"[::1]", b"http://[::1]:8181"),
    ],
)
def test_a_page_of_this_port_may_talk_to_it(host: bytes, origin: bytes) -> None:
    assert same_origin(host, origin)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"localhost:8181", b"http://evil.example"),
        (b"localhost:8181", b"http://localhost:8182"),
        (b"localhost:8181", b"http://localhost.evil.example:8181"),
        (b"localhost:8181", b"null"),
        (b"localhost:8181", b""),
        (b"localhost:8181", b"file://localhost:8181"),
        (b"127.0.0.1:8181", b"http://localhost:8181"),
        (b"[::1]:8181", b"http://[::2]:8181"),
        (None, b"http://localhost"),
    ],
)
def test_a_page_from_elsewhere_may_not(host: bytes | None, origin: bytes) -> None:
    assert not same_origin(host, origin)
