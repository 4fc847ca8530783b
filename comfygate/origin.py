"""Which web pages may talk to a port.

ComfyUI compares Origin with Host only while Host is a loopback name, and looks
the name up to find out.  The gate speaks to ComfyUI from the loopback address,
so it has to make the comparison itself, for every name and without a look-up.
"""

from __future__ import annotations


def same_origin(host: bytes | None, origin: bytes) -> bool:
    """Whether a page of `origin` was served under the name `host`.

    :param host: the request's Host: name or address, perhaps with a port.
    :param origin: the request's Origin (RFC 6454, section 7).
    :return: True if the names are equal and so are the ports, where both have
        one: a proxy in front of the gate may listen on another port than we do.
    """
    scheme, separator, authority = origin.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https") or host is None:
        return False
    ours, our_port = _split(host)
    theirs, their_port = _split(authority)
    return ours == theirs and (our_port == their_port or not our_port or not their_port)


def host_of(origin: bytes) -> bytes:
    """Name and port in an Origin, in lower case; empty for ``null``."""
    return origin.partition(b"://")[2].lower()


def _split(authority: bytes) -> tuple[bytes, bytes]:
    name, colon, port = authority.rpartition(b":")
    if not colon or b"]" in port:  # no port, or the colon of an IPv6 address
        return authority.lower(), b""
    return name.lower(), port
