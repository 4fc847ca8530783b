"""What may import what.

Each module of ComfyGate stands in one tier, and imports only from its own tier
and those above it in the table.
"""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TIERS = {
    "words": ["comfygate", "comfygate.errors", "comfygate.interfaces", "comfygate.model"],
    "decisions": [
        "comfygate.aliases",
        "comfygate.bucket",
        "comfygate.changes",
        "comfygate.config*",
        "comfygate.cors",
        "comfygate.files",
        "comfygate.history",
        "comfygate.http1",
        "comfygate.http1_*",
        "comfygate.journal.batch",
        "comfygate.journal.keep",
        "comfygate.journal.loss",
        "comfygate.journal.pages",
        "comfygate.journal.records",
        "comfygate.journal.salvage",
        "comfygate.journal.wal",
        "comfygate.ledger",
        "comfygate.job_summary",
        "comfygate.offers",
        "comfygate.origin",
        "comfygate.outbox",
        "comfygate.prompts",
        "comfygate.queue",
        "comfygate.routes",
        "comfygate.routing*",
        "comfygate.stream*",
        "comfygate.last_words",
        "comfygate.line",
        "comfygate.models",
    ],
    "I/O": [
        "comfygate.backend*",
        "comfygate.failpoints",
        "comfygate.gate*",
        "comfygate.journal*",
        "comfygate.websocket",
    ],
    "edge": ["comfygate.control*"],
    "assembly": [
        "comfygate.adoption",
        "comfygate.claims",
        "comfygate.daemon",
        "comfygate.footprint",
        "comfygate.gpus",
        "comfygate.hangups",
        "comfygate.herald",
        "comfygate.observation",
        "comfygate.persistence",
        "comfygate.plan",
        "comfygate.port",
        "comfygate.ports",
        "comfygate.reload",
        "comfygate.setups",
        "comfygate.shutdown",
        "comfygate.tap",
        "comfygate.testing",
        "twisted.plugins.comfygate_plugin",
    ],
}
NAMES = list(TIERS)

APART = {
    # Package: what of ComfyGate it may import besides itself.
    "comfygate.companion": set[str](),  # runs inside ComfyUI
    # Looks from outside; where a daemon's folder is, the configuration says.
    "comfygate.ctl": {"comfygate", "comfygate.config.paths", "comfygate.config.text", "comfygate.config.values"},
    "comfygate.simulator": {"comfygate"},  # a program of its own; the version is all it shares
    "comfygate.smoke": {"comfygate"},  # judges from outside: nothing of ours may judge itself
}

THIRD_PARTY_OF = {
    # Where something else than the declared requirements of the package is there.
    "comfygate.companion": {"aiohttp", "comfy", "execution", "folder_paths", "server", "nodes"},  # ComfyUI's own
}

KNOWS_THE_REACTOR = "comfygate.tap"

DECISIONS_MAY_KNOW = {
    # Of Twisted, decisions may use values and plugins: nothing that waits or sends.
    "twisted.plugin",
    "twisted.logger",
    "twisted.python",
    "twisted.internet.defer",
}
WORLDLY = {"socket", "select", "asyncio", "threading", "subprocess", "time", "signal"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"), str(path))
    for folder in ("comfygate", "twisted/plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def is_package(name: str) -> bool:
    return ROOT.joinpath(*name.split(".")).is_dir()


def imports(name: str) -> Iterator[str]:
    """Every module that `name` imports, also inside functions and for types only."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from imported_from(name, node)


def imported_from(name: str, node: ast.ImportFrom) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        parts = name.split(".")
        parts = parts[: len(parts) - node.level + (1 if is_package(name) else 0)]
        base = ".".join([*parts, base]).rstrip(".")
    for alias in node.names:
        full = f"{base}.{alias.name}"
        # "from package import module" imports the module.
        yield full if full in MODULES or full == "twisted.internet.reactor" else base


def package_apart(name: str) -> str | None:
    return next((package for package in APART if name == package or name.startswith(package + ".")), None)


def tier(name: str) -> int | None:
    for rank, patterns in enumerate(TIERS.values()):
        if any(fnmatch(name, pattern) for pattern in patterns):
            return rank
    return None


IN_TIERS = [name for name in MODULES if package_apart(name) is None]
SET_APART = [name for name in MODULES if package_apart(name) is not None]


def test_every_module_has_a_tier() -> None:
    homeless = [name for name in IN_TIERS if tier(name) is None]
    assert not homeless, f"put {', '.join(homeless)} into one tier of the table in {Path(__file__).name}"


def test_every_line_of_the_table_stands_for_a_module() -> None:
    for patterns in TIERS.values():
        for pattern in patterns:
            assert any(fnmatch(name, pattern) for name in MODULES), f"{pattern} is gone: take it out of the table"


@pytest.mark.parametrize("name", IN_TIERS)
def test_imports_point_to_the_words(name: str) -> None:
    own = tier(name)
    assert own is not None
    for imported in imports(name):
        if not imported.startswith("comfygate"):
            continue
        apart = package_apart(imported)
        assert apart is None, f"{name} imports {imported}, which is a program of its own"
        other = tier(imported)
        assert other is not None, f"{name} imports {imported}, which is in no tier"
        assert other <= own, (
            f"{name} ({NAMES[own]}) imports {imported} ({NAMES[other]}): imports point from assembly to words"
        )


@pytest.mark.parametrize("name", SET_APART)
def test_programs_of_their_own_import_nothing_of_ours(name: str) -> None:
    package = package_apart(name)
    assert package is not None
    for imported in imports(name):
        if imported.startswith("comfygate"):
            fine = imported in APART[package] or package_apart(imported) == package
            assert fine, f"{name} imports {imported}, but {package} is a program of its own"


@pytest.mark.parametrize("name", IN_TIERS)
def test_only_the_assembly_knows_the_reactor(name: str) -> None:
    if name != KNOWS_THE_REACTOR:
        assert "twisted.internet.reactor" not in set(imports(name)), (
            f"{name} imports the reactor: only {KNOWS_THE_REACTOR} may, others are handed it"
        )


@pytest.mark.parametrize("name", [name for name in IN_TIERS if (tier(name) or 0) <= NAMES.index("decisions")])
def test_decisions_do_no_io(name: str) -> None:
    for imported in imports(name):
        assert imported.partition(".")[0] not in WORLDLY, f"{name} decides, so it must not need {imported}"
        if imported.startswith("twisted."):
            known = any(imported == one or imported.startswith(one + ".") for one in DECISIONS_MAY_KNOW)
            assert known, f"{name} decides, so it must not need {imported}"


@pytest.mark.parametrize("name", [name for name in MODULES if is_package(name)])
def test_packages_hold_nothing_of_weight(name: str) -> None:
    if name.startswith("comfygate.companion."):
        pytest.skip("ComfyUI loads a custom node by its __init__.py")
    for node in MODULES[name].body:
        light = isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign)
        light = light or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        assert light, f"line {node.lineno} of {name}/__init__.py: it may hold a docstring and constants only"


def test_there_is_no_init_in_plugin_folders() -> None:
    """With one, Twisted would look for plugins there only."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))


# -- requirements

DISTRIBUTIONS = importlib.metadata.packages_distributions()


def requirements() -> dict[str, set[str]]:
    """Names of the declared requirements, by extra; "" for those that are always there."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")

    def names(text: str) -> set[str]:
        return {canonical(re.split(r"[\s\[<>=;!~]", line, maxsplit=1)[0]) for line in text.split("\n") if line.strip()}

    extras = {extra: names(parser["options.extras_require"][extra]) for extra in parser["options.extras_require"]}
    return {"": names(parser["options"]["install_requires"]), **extras}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", list(MODULES))
def test_what_is_imported_is_declared(name: str) -> None:
    package = package_apart(name)
    declared = requirements()
    allowed = declared[""] | (declared["simulator"] if package == "comfygate.simulator" else set())
    for imported in imports(name):
        top = imported.partition(".")[0]
        if top in sys.stdlib_module_names or top == "comfygate" or top in THIRD_PARTY_OF.get(package or "", ()):
            continue
        # A namespace such as zope belongs to several distributions.
        of = {canonical(distribution) for distribution in DISTRIBUTIONS.get(top, ())} - {"comfygate"}
        assert of & allowed, f"{name} imports {imported}: declare its distribution in setup.cfg"


def test_what_is_declared_is_imported() -> None:
    everything = {imported.partition(".")[0] for name in MODULES for imported in imports(name)}
    used = {canonical(distribution) for top in everything for distribution in DISTRIBUTIONS.get(top, ())}
    declared = requirements()
    unused = (declared[""] | declared["simulator"]) - used
    assert not unused, f"{', '.join(sorted(unused))} is declared in setup.cfg, and nothing imports it"
