"""What is done to every request: who may ask, what may be cached."""

from __future__ import annotations

import argparse
import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SUCCESS = {200, 201, 202, 203, 204, 205, 206, 301, 308}


def all_for(options: argparse.Namespace) -> list[Middleware]:
    """The middlewares that the options ask for, outermost first."""
    chosen: list[Middleware] = [cache_control]
    if options.enable_compress_response_body:
        chosen.append(compress)
    return [*chosen, cors(options.enable_cors_header) if options.enable_cors_header else same_origin]


@web.middleware
async def cache_control(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Say by path and status how long an answer may be kept."""
    response = await handler(request)
    last = request.path.rsplit("/", 1)[-1]
    rule = None
    if request.path.endswith((".js", ".css")) or (last.startswith("index") and last.endswith(".json")):
        rule = "no-cache"
    elif request.path.lower().endswith(PICTURES):
        if response.status == 404:
            rule = "public, max-age=3600"
        elif response.status in SUCCESS:
            rule = "public, max-age=86400"
        elif response.status in {302, 303, 307}:
            rule = "no-cache"
    if rule:
        response.headers.setdefault("Cache-Control", rule)
    return response


@web.middleware
async def compress(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Compress JSON and text for clients that take gzip."""
    response = await handler(request)
    textual = response.content_type in {"application/json", "text/plain"}
    if isinstance(response, web.Response) and textual and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression()
    return response


def cors(origin: str) -> Middleware:
    """Let pages of `origin` read the answers."""

    @web.middleware
    async def allow(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = web.Response() if request.method == "OPTIONS" else await handler(request)
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Methods"] = "POST, GET, DELETE, PUT, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization"
        response.headers["Access-Control-Allow-Credentials"] = "true"
        return response

    return allow


@web.middleware
async def same_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse pages from elsewhere that reach for this machine's loopback address."""
    if _foreign(request.headers.get("Host"), request.headers.get("Origin")):
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)


def _foreign(host: str | None, origin: str | None) -> bool:
    if host is None or origin is None:
        return False
    target, page = urlsplit("//" + host.lower()), urlsplit(origin.lower())
    if not _is_loopback(target.hostname):
        return False
    # Ports count only where both have one.
    target_name = target.hostname if page.port is None else host.lower()
    page_name = page.hostname if target.port is None else page.netloc
    return bool(target_name and page_name and target_name != page_name)


def _is_loopback(host: str | None) -> bool:
    """Whether `host` is, or resolves only to, a loopback address; the look-up blocks, as in ComfyUI."""
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found: list[Any] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)
