"""Stands between the daemon and one ComfyUI: a program of its own, standard library only.

``python -S -E guard.py LOG LOG_SIZE LOG_FILES FOLDER -- PROGRAM ARGUMENTS…``

It starts the program in FOLDER, writes everything that the program prints to
LOG (at most LOG_FILES files of LOG_SIZE bytes), and sees to it that nothing of
it outlives the daemon, however that ends.

- File descriptor 0 is the daemon's hand on it.  ``i`` interrupts the program as
  Ctrl-C would, ``k`` kills all of it.  The end of the file means that the
  daemon is gone, which kills all of it too.
- File descriptor 1 tells the daemon, in lines: ``started PID``, then
  ``exited REASON``; or ``failed REASON`` if the program could not be started.
  In between, ``lost LINE``: the program printed that an exception has ended the
  thread that runs its prompts.

"All of it" is the program, its process group, and whatever they started: the
guard is their subreaper, so even those that made themselves a session of their
own are found among its descendants.  A guard that is killed itself takes the
program along (PR_SET_PDEATHSIG); the daemon then looks for the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
F_SETPIPE_SZ = 1031

CHUNK = 256 * 1024  # bytes read from the program at a time
PIPE = 1024 * 1024  # bytes that the program may be ahead of us
BURY = 5.0  # seconds that killed processes are given to disappear
DRAIN = 1.0  # seconds for the last output of a program that has ended
REOPEN = 1.0  # seconds between attempts to open a log that cannot be opened

NAME = rb"Thread-\d+ \(prompt_worker\)"  # Python's for a thread that runs ComfyUI's function of that name

LOST = re.compile(
    rb"(Exception in thread )"
    rb"(?:(?s:(?!Traceback|Exception in thread ).){1,4000}?(?<![ \[(:<\"'])(?=" + NAME + rb"(?::?[\r\n]|[^\s:])))?"
    rb"(" + NAME + rb")"
)
"""What Python prints at the end of ComfyUI's worker, in three pieces: this, the thread's name, and ``:``.

Lines and progress bars of other threads ("got prompt") may stand between the
pieces.  A line of a log that merely names the thread is not taken for its end:
there, the name stands behind a space or a bracket, or a space follows.
"""

LOST_LONGEST = 4200  # bytes that it may have, and a little more

TAKEN_OVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1)


class Log:
    """A raw log of bounded size, which never raises.

    What cannot be written (a full disk, a folder that is gone) is dropped and
    counted; a line in the log says so when it can be written again.

    :param path: the newest file; older ones are `path`.1, `path`.2, ….
    :param size: bytes in one file.
    :param files: how many files are kept, the newest included.
    """

    def __init__(self, path: str, size: int, files: int) -> None:
        self.path = path
        self.size = max(size, 4096)
        self.files = max(files, 1)
        self.dropped = 0
        self._why = ""
        self._fd = -1
        self._room = 0
        self._closed_at = -REOPEN

    def write(self, data: bytes) -> None:
        """Append `data`, going on to the next file where one is full."""
        view = memoryview(data)
        while view:
            if not self._ready():
                self.dropped += len(view)
                return
            try:
                written = os.write(self._fd, view[: self._room])
            except OSError as error:
                self._fail(error)
                continue
            self._room -= written
            view = view[written:]

    def note(self, text: str) -> None:
        """Append a line of our own."""
        self.write(f"\n[comfygate] {text}\n".encode(errors="replace"))

    def close(self) -> None:
        """Say what was lost, if it can be said, and let the file go."""
        if self.dropped:
            self._closed_at = -REOPEN
            self._ready()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ready(self) -> bool:
        if self._fd >= 0 and self._room > 0:
            return True
        now = time.monotonic()
        if self._fd < 0 and now - self._closed_at < REOPEN:
            return False
        try:
            self._open()
        except OSError as error:
            self._fail(error)
            return False
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            self.note(f"{lost} bytes of output were lost: {self._why}")
            return self._fd >= 0 and self._room > 0
        return True

    def _open(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.path).st_size >= self.size:
                self._shift()
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._room = self.size - os.fstat(self._fd).st_size

    def _shift(self) -> None:
        for number in range(self.files - 1, 0, -1):
            older = f"{self.path}.{number}"
            newer = f"{self.path}.{number - 1}" if number > 1 else self.path
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, older)
        if self.files == 1:
            os.truncate(self.path, 0)

    def _fail(self, error: OSError) -> None:
        self._why = error.strerror or str(error)
        self._closed_at = time.monotonic()
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def prctl(option: int, value: int) -> None:
    """Change what the kernel does with this process; see its manual page, section 2.

    :raises OSError: if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def descendants(ancestor: int) -> Iterator[int]:
    """List the live processes below `ancestor`, as /proc shows them now."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name in parentheses may hold anything, also parentheses.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        # A zombie is listed for the sake of its children only.
        children.setdefault(int(parent), []).append(int(name) if state != b"Z" else -int(name))
    waiting = [ancestor]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            waiting.append(abs(pid))
            if pid > 0:
                yield pid


class Guard:
    """One program, its output, and its end."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.pid = 0
        self.status: int | None = None
        self.output = -1
        self.deadline: float | None = None
        self._poll = select.poll()
        self._heard = b""

    def run(self, argv: list[str], folder: str) -> None:
        """Start `argv` in `folder`, and return when nothing of it is left."""
        wake = self._wake_on_child()
        try:
            self._start(argv, folder)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            report(f"failed cannot start {argv[0]} in {folder}: {getattr(error, 'strerror', None) or error}")
            return
        report(f"started {self.pid}")
        self.log.note(f"process {self.pid}: {' '.join(argv)}")
        self._poll.register(0, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        self._poll.register(self.output, select.POLLIN)
        while self.status is None:
            self._turn(wake, None)
        self._bury(wake)
        self._drain()
        report(f"exited {in_words(self.status)}")

    def _wake_on_child(self) -> int:
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in TAKEN_OVER:
            signal.signal(number, signal.SIG_IGN)
        return reading

    def _start(self, argv: list[str], folder: str) -> None:
        self.output, writing = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.output, F_SETPIPE_SZ, PIPE)
        guard = os.getpid()

        def prepare() -> None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)
            # What the daemon ignores, the program need not: Python installs
            # KeyboardInterrupt only where SIGINT is not ignored.
            for number in (*TAKEN_OVER, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())

        try:
            program = subprocess.Popen(
                argv,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                process_group=0,
                preexec_fn=prepare,  # noqa: PLW1509 - there are no threads here
            )
        finally:
            os.close(writing)
        self.pid = program.pid
        program.returncode = 0  # it is waited for in _reap, not by this object
        os.set_blocking(self.output, False)

    def _turn(self, wake: int, timeout: float | None) -> None:
        """Wait for something to happen, at most `timeout` seconds, and do it."""
        events = self._poll.poll(None if timeout is None else timeout * 1000)
        for fd, _ in events:
            if fd == 0:
                self._obey()
            elif fd == wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            elif not self._read():
                self._poll.unregister(self.output)
        self._reap()

    def _obey(self) -> None:
        try:
            commands = os.read(0, 64)
        except OSError:
            commands = b""
        if not commands:
            self._poll.unregister(0)
        if not commands or b"k" in commands:
            self.kill()
        elif b"i" in commands and self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGINT)

    def _read(self) -> bool:
        """Log what the program printed; false at the end of it."""
        try:
            data = os.read(self.output, CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.log.write(data)
        self._listen(data)
        return bool(data)

    def _listen(self, data: bytes) -> None:
        """Tell the daemon if the worker's end was printed, maybe in two pieces."""
        text = self._heard + data
        found = LOST.search(text)
        if found:
            report(f"lost {b''.join(found.groups()).decode()}")
            text = text[found.end() :]
        self._heard = text[-LOST_LONGEST:]

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.status = status

    def kill(self) -> None:
        """End everything now."""
        if self.status is None:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _bury(self, wake: int) -> None:
        """Kill what the program left behind, until nothing is left of it."""
        deadline = time.monotonic() + BURY
        while next(descendants(os.getpid()), None) is not None:
            if time.monotonic() > deadline:
                self.log.note("processes of this backend could not be killed")
                return
            self.kill()
            self._turn(wake, 0.02)
        self._reap()

    def _drain(self) -> None:
        """Log what is still in the pipe, though something may hold its end."""
        deadline = time.monotonic() + DRAIN
        waiting = select.poll()
        waiting.register(self.output, select.POLLIN)
        while time.monotonic() < deadline and waiting.poll(0):
            if not self._read():
                return


def in_words(status: int) -> str:
    """Say what a wait status means."""
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"killed by signal {-code}"


def report(line: str) -> None:
    """Tell the daemon, if it is there."""
    with contextlib.suppress(OSError):
        os.write(1, line.replace("\n", " ").encode(errors="replace") + b"\n")


def main(arguments: list[str]) -> None:
    """Run the program that the command line names."""
    path, size, files, folder, _, *argv = arguments
    with contextlib.suppress(OSError):  # already the leader of a session
        os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    log = Log(path, int(size), int(files))
    try:
        Guard(log).run(argv, folder)
    finally:
        log.close()


if __name__ == "__main__":
    main(sys.argv[1:])
