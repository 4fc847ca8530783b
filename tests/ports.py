"""Ports for what the tests start, so that test processes beside each other never meet."""

from __future__ import annotations

import functools
import itertools
import socket

BLOCK = 200
LOWEST, END = 10_000, 20_000
"""Below what a daemon chooses for its ComfyUIs by itself, and what the kernel hands out."""


class Block:
    """A range of ports that is this process's own for as long as it lives: it listens on the first.

    :raises AssertionError: all are taken.
    """

    def __init__(self) -> None:
        for base in range(LOWEST, END, BLOCK):
            self._sign = socket.socket()
            try:
                self._sign.bind(("127.0.0.1", base))
                self._sign.listen()
            except OSError:
                self._sign.close()
                continue
            self._turns = itertools.cycle(range(base + 1, base + BLOCK))
            return
        raise AssertionError(f"every {BLOCK}th port from {LOWEST} on is taken")

    def free(self, count: int) -> int:
        """The first of `count` free ports in a row, and the longest unused ones: the last may still be closing.

        :raises AssertionError: there are none.
        """
        row: list[int] = []
        for port in itertools.islice(self._turns, 3 * BLOCK):
            in_a_row = not row or port == row[-1] + 1
            row = ([*row, port] if in_a_row else [port]) if is_free(port) else []
            if len(row) == count:
                return row[0]
        raise AssertionError(f"no {count} free ports in a row")


def is_free(port: int) -> bool:
    """Whether nobody listens there, or has just done so."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@functools.cache
def _block() -> Block:
    return Block()


def free_ports(count: int = 1) -> int:
    """The first of `count` free ports in a row."""
    return _block().free(count)
