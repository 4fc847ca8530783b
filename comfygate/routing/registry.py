"""Policies by name: built in, or dropped into ``twisted/plugins`` by anyone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from attrs import frozen
from twisted.plugin import IPlugin, getPlugins
from zope.interface import implementer

from comfygate.interfaces import IInterruptPolicy, IPolicyMaker, IRoutingPolicy

_PROVIDES = {"routing": IRoutingPolicy, "interrupt": IInterruptPolicy}


class PolicyError(ValueError):
    """A policy that cannot be made; the message says why and what to write instead."""


@implementer(IPolicyMaker, IPlugin)
@frozen(kw_only=True)
class PolicyMaker:
    """A policy plugin that imports its class when a policy is made.

    :ivar dotted: where the class is, such as ``mypackage.policies.Nearest``; the
        arguments of the configuration become its keyword arguments, as strings.
    """

    name: str
    dotted: str
    help: str
    kind: str = "routing"
    arguments: str = ""

    def make(self, arguments: Mapping[str, str]) -> object:
        """See :class:`comfygate.interfaces.IPolicyMaker`."""
        module, _, name = self.dotted.rpartition(".")
        factory = getattr(import_module(module), name)
        try:
            made: object = factory(**arguments)
            return made
        except TypeError as error:
            given = ", ".join(f"{key}={value}" for key, value in arguments.items())
            if not self.arguments:
                raise ValueError(f"it takes no arguments, and got {given}") from None
            raise ValueError(f"{given} does not fit ({error}); it takes {self.arguments}") from None


class Policies:
    """The policies that there are.

    :param makers: plugins; looked up once, since that reads the disk.
    """

    def __init__(self, makers: Iterable[Any]) -> None:
        self._makers: dict[tuple[str, str], Any] = {}
        for maker in makers:
            self._makers.setdefault((maker.kind, maker.name), maker)

    @classmethod
    def installed(cls) -> Policies:
        """Find all plugins in ``twisted/plugins`` folders on the import path."""
        return cls(getPlugins(IPolicyMaker))

    def makers(self, kind: str) -> list[Any]:
        """The plugins of one kind, by name."""
        return [maker for (found, _), maker in sorted(self._makers.items()) if found == kind]

    def make(self, kind: str, name: str, arguments: Mapping[str, str]) -> Any:
        """Make a policy.

        :param kind: ``routing`` or ``interrupt``.
        :raises PolicyError: for an unknown name, bad arguments, or a plugin that
            makes something else than a policy of that kind.
        """
        maker = self._makers.get((kind, name))
        if maker is None:
            known = ", ".join(maker.name for maker in self.makers(kind))
            raise PolicyError(f"there is no {kind} policy {name!r}; known are: {known}")
        try:
            policy = maker.make(arguments)
        except ValueError as error:
            raise PolicyError(f"policy {name!r}: {error}") from error
        if not _PROVIDES[kind].providedBy(policy):
            raise PolicyError(f"policy {name!r} is not a {_PROVIDES[kind].__name__}: its class lacks @implementer")
        return policy
