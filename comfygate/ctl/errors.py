"""How a command fails: each error is one sentence, and says with which status the program ends."""

from __future__ import annotations


class CtlError(Exception):
    """A command that could not be carried out.

    :cvar status: the program's exit status.
    """

    status = 1


class RefusedError(CtlError):
    """The daemon refused, or it failed."""


class UsageError(CtlError):
    """The command line is wrong."""

    status = 2


class AbsentError(CtlError):
    """There is no daemon, or none that may be asked by this user."""

    status = 3
