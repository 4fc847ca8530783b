"""For all tests."""

from __future__ import annotations

import signal

# Whoever runs the suite in the background may have it ignore these, and so every process that it starts.
for number, disposition in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, disposition)
