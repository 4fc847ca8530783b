"""How long a long queue holds other traffic up.

Fills one GPU's queue with prompts of a given size, then asks for the queue
again and again while another client times small requests on another port.
Prints milliseconds: median, 99th percentile and the longest, idle and busy.

    python -m benchmarks.queue --prompts 500 --size 100000
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import tempfile
import threading
import time
from pathlib import Path

from tests.gateway import Gateway, request, running, workflow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--size", type=int, default=100_000, help="bytes of one prompt")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), "rate = 0\n", gpus=2) as gateway:
        fill(gateway.ports[0], options.prompts, options.size)
        report("idle", timings(gateway, options.seconds))
        stop = threading.Event()
        asked: list[int] = []
        asking = threading.Thread(target=ask, args=(gateway.ports[0], stop, asked))
        asking.start()
        report("busy", timings(gateway, options.seconds))
        stop.set()
        asking.join()
        print(f"{len(asked)} answers of {statistics.median(asked) / 1e6:.1f} MB to GET /queue meanwhile")


def fill(port: int, prompts: int, size: int) -> None:
    for _ in range(prompts):
        body = {"prompt": workflow(3600), "extra_data": {"extra_pnginfo": {"workflow": "x" * size}}}
        assert request(port, "POST", "/prompt", body).status == 200


def ask(port: int, stop: threading.Event, asked: list[int]) -> None:
    while not stop.is_set():
        asked.append(len(request(port, "GET", "/queue", seconds=120).body))


def timings(gateway: Gateway, seconds: float) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports[1], timeout=60)
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection.request("GET", "/prompt")
        connection.getresponse().read()
        found.append(time.perf_counter() - began)
        time.sleep(0.001)
    connection.close()
    return sorted(1000 * one for one in found)


def report(name: str, found: list[float]) -> None:
    p99 = found[int(len(found) * 0.99)]
    print(
        f"{name}: median {statistics.median(found):.2f} ms, p99 {p99:.2f} ms, longest {found[-1]:.2f} ms ({len(found)})"
    )


if __name__ == "__main__":
    main()
