"""What a daemon does without, and what it lets go of once it has started."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress


def without_openssl() -> None:
    """Let Twisted find no pyOpenSSL; called before the reactor is loaded.

    Twisted loads it wherever it is installed, which treq sees to: 12 MiB, and the
    daemon speaks TLS with nobody.  That a module is None means for the import
    system that there is none (Python's language reference, section 5.3.1), and for
    Twisted that it is to do without, as it can.  Python's own ``ssl`` is not
    touched.
    """
    sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]


def settle() -> None:
    """Give back what only the start needed, and keep the rest out of the garbage collector's way.

    Called once, when all is loaded.  What is loaded stays until the end, but each
    full collection would look at all of it: some 60,000 objects, 20 ms in
    which nothing is answered.  Compiling modules, which Python does at the first
    start and wherever it may not keep the result, leaves 9 MiB of free memory with
    the C library; with the result at hand it is less than 1 MiB.
    """
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)
