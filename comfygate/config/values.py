"""What the configuration's values look like: each function reads one kind, or says what is wrong with it.

They raise ValueError with the rest of a sentence that begins with the key's
name: what the value must be, and what it is.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from attrs import field, frozen

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,255})(:[0-9]{1,5})?")

_RESERVED_OPTIONS = {
    "--port": "ComfyGate picks the ports of the processes; set first_port, or port in [gpu:n]",
    "--listen": "the processes listen on 127.0.0.1 only; set interface for the ports that people use",
    "--input-directory": "set input_dir instead",
    "--output-directory": "set output_dir instead",
    "--temp-directory": "each GPU has a temp folder of its own in state_dir",
    "--database-url": "each GPU has a database of its own in state_dir",
    "--cuda-device": "set devices instead",
    "--cpu": "set devices = cpu*1 instead",
    "--enable-cors-header": "set cors_origins; ComfyGate checks Host and Origin itself",
    "--tls-keyfile": "ComfyGate speaks plain HTTP to the processes",
    "--tls-certfile": "ComfyGate speaks plain HTTP to the processes",
}


@frozen
class PolicySpec:
    """A policy by name, with what stood behind the colon.

    Whether there is such a policy, only the plugins know.
    """

    name: str
    arguments: Mapping[str, str] = field(factory=dict)


def integer(least: int, most: int) -> Callable[[str], int]:
    """A whole number between two bounds, both allowed."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """A decimal number between two bounds, both allowed; neither NaN nor infinity."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", text) or not least <= float(text) <= most:
            raise ValueError(f"must be a number from {least:.15g} to {most:.15g}, not {text!r}")
        return float(text)

    return read


def size(least: int, most: int) -> Callable[[str], int]:
    """Bytes, perhaps with K, M or G for powers of 1024."""

    def read(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,15})([kmg]?)", text, re.IGNORECASE)
        found = int(match[1]) * _UNITS[match[2].lower()] if match else -1
        if not least <= found <= most:
            raise ValueError(
                f"must be a size such as 64K, 10M or 2G, from {_short(least)} to {_short(most)}, not {text!r}"
            )
        return found

    return read


def _short(amount: int) -> str:
    for unit, factor in (("G", 2**30), ("M", 2**20), ("K", 2**10)):
        if amount and amount % factor == 0:
            return f"{amount // factor}{unit}"
    return str(amount)


port = integer(1, 65535)


def port_or_none(text: str) -> int:
    """A port, or 0 for none."""
    return integer(0, 65535)(text)


def one_of(*words: str) -> Callable[[str], str]:
    """One of a few words."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be {' or '.join(words)}, not {text!r}")
        return text.lower()

    return read


def line(text: str) -> str:
    """Any text of one line."""
    return text


def devices(text: str) -> str:
    """Names of devices, in words that could be some; whether they are there, only the machine knows."""
    if text.lower() in ("all", "none"):
        return text.lower()
    for word in (part.strip() for part in text.split(",")):
        if word and not re.fullmatch(r"all|cpu(\s*\*\s*[0-9]+)?|[0-9]{1,9}|(gpu|mig)-\S+", word, re.IGNORECASE):
            raise ValueError(f"must be all, numbers such as 0,1,3, UUIDs, cpu*4 or none, not {text!r}")
    return text


def address(text: str) -> str:
    """An IP address of this machine, or one that stands for all of them."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    raise ValueError(
        f"must be an IP address such as 127.0.0.1, or 0.0.0.0 to listen on all IPv4 addresses, not {text!r}"
    )


def arguments(text: str) -> tuple[str, ...]:
    """Options for ComfyUI, quoted as in a shell."""
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        raise ValueError(f"has a quotation mark that is not closed: {text!r}") from None
    for word in words:
        reason = _RESERVED_OPTIONS.get(word.partition("=")[0])
        if word.startswith("#"):
            reason = "a comment after a value begins with ;"
        if reason:
            raise ValueError(f"must not hold {word}: {reason}")
    return words


def policy(text: str) -> PolicySpec:
    """``name`` or ``name:key=value,key=value``."""
    name, colon, rest = text.partition(":")
    name = name.strip()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or (colon and not rest.strip()):
        raise ValueError(f"must be a policy's name, or name:key=value,key=value, not {text!r}")
    found: dict[str, str] = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key.isidentifier() or not equals or not value:
            raise ValueError(f"must be written name:key=value,key=value; {pair.strip()!r} is not key=value")
        if key in found:
            raise ValueError(f"gives {key} twice; leave one of them out")
        found[key] = value
    return PolicySpec(name, found)


def metered(text: str) -> tuple[str, ...]:
    """Which requests cost a token: ``METHOD /path``, ``METHOD /path*`` and ``METHOD *``, with commas between."""
    patterns = [" ".join(part.split()) for part in re.split(r"[,\n]", text)]
    return tuple(_pattern(pattern) for pattern in patterns if pattern)


def _pattern(text: str) -> str:
    method, _, path = text.partition(" ")
    if not re.fullmatch(r"[A-Za-z]+|\*", method) or not re.fullmatch(r"\*|/[!-)+-~]*\*?", path):
        raise ValueError(
            f"must list patterns such as POST *, GET /queue or * /history/*, with commas between, not {text!r}"
        )
    if path.startswith("/api/"):
        raise ValueError(f"must name paths without /api, which is always meant too: {path[4:]!r} instead of {path!r}")
    return f"{method.upper()} {path}"


def gpu_ids(text: str) -> tuple[int, ...]:
    """GPU numbers with commas between, or ``all``, which is ``()``."""
    if text.lower() == "all":
        return ()
    found: list[int] = []
    for word in (part.strip() for part in text.split(",")):
        if not re.fullmatch(r"[0-9]{1,9}", word):
            raise ValueError(f"must be all, or GPU numbers such as 0,1,3, not {text!r}")
        if int(word) in found:
            raise ValueError(f"names GPU {int(word)} twice; leave one of them out")
        found.append(int(word))
    return tuple(found)


def url(text: str) -> str:
    """``http://host:port`` of a ComfyUI that someone else runs."""
    try:
        parts = urlsplit(text)
        host, number = parts.hostname, parts.port
    except ValueError:
        host, number = None, None
    simple = host is not None and number != 0 and not re.search(r"[\s@?#%]", text) and parts.path in ("", "/")
    if not simple or parts.scheme != "http":
        raise ValueError(f"must be written http://host:port, not {text!r}")
    shown = f"[{host}]" if ":" in str(host) else host
    return f"http://{shown}:{number or 80}"


def origins(text: str) -> tuple[str, ...]:
    """Origins of web pages with commas between, as browsers write them; ``null`` and ``*`` are two."""
    words = [word.strip() for word in re.split(r"[,\n]", text)]
    return tuple(dict.fromkeys(_origin(word) for word in words if word))


def _origin(text: str) -> str:
    """RFC 6454, section 6.2: scheme, host, and the port unless it is the scheme's own."""
    lower = text.lower()
    if lower in ("*", "null"):
        return lower
    scheme, separator, host = lower.partition("://")
    if scheme == "file":
        raise ValueError(f"cannot hold {text!r}: pages opened from a file call themselves null; write null")
    remedy = _origin_remedy(scheme if separator else "", host)
    if remedy:
        raise ValueError(f"must list origins such as http://localhost:3000, or null, or *: {text!r} {remedy}")
    name, colon, number = host.rpartition(":")
    if colon and _DEFAULT_PORTS.get(scheme) == number:
        host = name
    return f"{scheme}://{host}"


def _origin_remedy(scheme: str, host: str) -> str:
    """What is wrong with an origin, and what to write instead; nothing if it is right."""
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        return "has no scheme; put http:// or https:// before it"
    if re.search(r"\s", host):
        return "has a space in it; put commas between origins"
    if host.endswith("/") and "/" not in host[:-1]:
        return "ends with a slash; leave that out"
    if re.search(r"[/?#]", host):
        return "goes on behind host and port; an origin ends there"
    if "*" in host:
        return "has a * in its name; list each origin, or write * alone for any page"
    if not host.isascii():
        return "has letters beyond ASCII; write the name as browsers send it, with xn--"
    if not _ORIGIN_HOST.fullmatch(host) or not _right_port(host):
        return "has no valid host and port behind ://"
    return ""


def _right_port(host: str) -> bool:
    port = re.search(r":([0-9]+)\Z", host)
    return port is None or (not port[1].startswith("0") and int(port[1]) <= 65535)


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace ``~`` and ``$VARIABLE`` in a path.

    :raises ValueError: for a variable that is not set, and for another user's ``~``.
    """
    if text == "~" or text.startswith("~/"):
        text = "$HOME" + text[1:]
    elif text.startswith("~"):
        raise ValueError(f"must name the folder in full; only your own ~/ is understood, not {text!r}")

    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not environ.get(name):
            raise ValueError(f"uses ${name}, which is not set; set it, or write the path out")
        return environ[name]

    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", replace, text)
