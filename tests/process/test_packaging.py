"""What is built from this tree works where nothing else of it is.

Each environment holds its own ComfyGate; everything that ComfyGate needs comes
from the environment that runs the tests, through one line in a .pth file.  (The
lines of .pth files in the folder that is named so are not followed, so that a
ComfyGate installed there in editable mode is not seen.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import comfygate

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("LICENSE", "MANIFEST.in", "README.md", "comfygate", "pyproject.toml", "setup.cfg", "twisted")
NO_CACHES = shutil.ignore_patterns("__pycache__", "*.pyc", "dropin.cache", "*.egg-info")
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation")

TWISTD = """\
#!{python}
import sys
from twisted.scripts.twistd import run
sys.argv[0] = "twistd"
sys.exit(run())
"""

GOOD = "[comfygate]\ncomfyui = simulator\ndevices = cpu*2\nstate_dir = state\n"


def run(command: Sequence[str | Path], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COMFY", "PIP_"))}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**kept, **environ},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def must(command: Sequence[str | Path], folder: Path) -> str:
    done = run(command, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of_the_tree(folder: Path) -> Path:
    folder.mkdir()
    for name in BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=NO_CACHES)
        elif source.exists():
            shutil.copy2(source, folder / name)
    return folder


def clean_environment(folder: Path) -> Path:
    """Make an environment in which there is everything but ComfyGate; return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages = Path(must([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    ours = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "needed.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
    twistd = folder / "bin" / "twistd"
    twistd.write_text(TWISTD.format(python=python), encoding="utf-8")
    twistd.chmod(0o755)
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tree = copy_of_the_tree(folder / "tree")
    must([sys.executable, *PIP, "wheel", *OFFLINE, "--wheel-dir", folder, tree], folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("from_wheel")
    python = clean_environment(folder / "environment")
    must([sys.executable, *PIP, "--python", python, "install", *OFFLINE, wheel], folder)
    return python


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editable")
    tree = copy_of_the_tree(folder / "tree")
    python = clean_environment(folder / "environment")
    must([sys.executable, *PIP, "--python", python, "install", *OFFLINE, "--editable", tree], folder)
    return python


@pytest.fixture(params=["from_wheel", "editable"])
def python(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with ComfyGate in it."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


# -- what is in it


def files_of_the_tree() -> set[str]:
    """All that has to be in the wheel: code, and the data that code needs."""
    found = [path for name in ("comfygate", "twisted") for path in (ROOT / name).rglob("*") if path.is_file()]
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if "__pycache__" not in path.parts and path.name != "dropin.cache"
    }


def test_the_wheel_holds_all_of_it_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    content = {name for name in names if ".dist-info/" not in name}
    assert content == files_of_the_tree()
    assert {"twisted/plugins/comfygate_plugin.py", "comfygate/py.typed", "comfygate/simulator/index.html"} <= content
    assert {f"comfygate/control/web/{name}" for name in ("index.html", "page/page.css", "page/page.js")} <= content
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name == f"comfygate-{comfygate.__version__}-py3-none-any.whl"


# -- what it does


def twistd(python: Path) -> Path:
    return python.with_name("twistd")


def test_it_is_the_one_that_was_installed(python: Path, tmp_path: Path) -> None:
    where = must([python, "-c", "import comfygate; print(comfygate.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(python.parents[2])


def test_twistd_knows_it(python: Path, tmp_path: Path) -> None:
    done = run([twistd(python), "--help"], tmp_path)
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ") and line.strip()]
    assert listed.count("comfygate") == 1, done.stdout + done.stderr


def test_version(python: Path, tmp_path: Path) -> None:
    assert must([twistd(python), "comfygate", "--version"], tmp_path) == f"comfygate {comfygate.__version__}\n"


def test_the_smoke_test_is_a_command(python: Path, tmp_path: Path) -> None:
    command = python.with_name("comfygate-smoke")
    assert must([command, "--version"], tmp_path) == f"comfygate-smoke {comfygate.__version__}\n"


def test_the_operators_tool_is_a_command(python: Path, tmp_path: Path) -> None:
    command = python.with_name("comfygatectl")
    assert must([command, "--version"], tmp_path) == f"comfygatectl {comfygate.__version__}\n"


def test_help(python: Path, tmp_path: Path) -> None:
    text = must([twistd(python), "comfygate", "--help"], tmp_path)
    assert "--config" in text
    assert "--check" in text


def test_check_of_a_good_file(python: Path, tmp_path: Path) -> None:
    (tmp_path / "gpus.ini").write_text(GOOD, encoding="utf-8")
    text = must([twistd(python), "comfygate", "--config", "gpus.ini", "--check"], tmp_path)
    for port in ("8181", "8182", "8188"):
        assert port in text
    assert [path.name for path in tmp_path.iterdir()] == ["gpus.ini"]  # it started nothing


def test_built_in_policies_are_found(python: Path, tmp_path: Path) -> None:
    for policy in ("affinity", "fair:within=affinity,overtake=50", "most-free-memory", "weighted"):
        (tmp_path / "gpus.ini").write_text(f"{GOOD}policy = {policy}\n", encoding="utf-8")
        must([twistd(python), "comfygate", "--config", "gpus.ini", "--check"], tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rat = 3", "gpus.ini, [comfygate] rat: is not a key of this section; perhaps rate is meant."),
        ("[gpu:0]\nport = 8188", "gpus.ini, [comfygate] hub_port: port 8188 of hub is taken by gpu-0"),
        ("policy = luck", "gpus.ini, [comfygate] policy: there is no routing policy 'luck'; known are: affinity"),
        ("input_dir = /no/such", "gpus.ini, [comfygate] input_dir: there is no folder /no/such"),
    ],
)
@pytest.mark.parametrize("option", [["--check"], []])
def test_mistakes_end_with_one_sentence(
    from_wheel: Path, tmp_path: Path, line: str, expected: str, option: list[str]
) -> None:
    (tmp_path / "gpus.ini").write_text(GOOD + line, encoding="utf-8")
    done = run([twistd(from_wheel), "-n", "--pidfile=", "comfygate", "--config", "gpus.ini", *option], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("comfygate: " + expected)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "state").exists()


def test_a_configuration_without_its_option_is_a_mistake(from_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "gpus.ini").write_text(GOOD, encoding="utf-8")
    done = run([twistd(from_wheel), "-n", "--pidfile=", "comfygate", "gpus.ini"], tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "comfygate: 'gpus.ini' is not an option; a configuration is named with --config gpus.ini; "
        "see twistd comfygate --help\n"
    )


def test_the_simulator_starts(python: Path, tmp_path: Path) -> None:
    assert "--sim-node-seconds" in must([python, "-m", "comfygate.simulator", "--help"], tmp_path)


def test_a_policy_in_a_users_own_folder_is_found(python: Path, tmp_path: Path) -> None:
    plugins = tmp_path / "mine" / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "my_policy.py").write_text(
        "from comfygate.routing.registry import PolicyMaker\n"
        "mine = PolicyMaker(name='mine', dotted='comfygate.routing.round_robin.RoundRobin', help='mine')\n",
        encoding="utf-8",
    )
    (tmp_path / "gpus.ini").write_text(f"{GOOD}policy = mine\n", encoding="utf-8")
    command = [twistd(python), "comfygate", "--config", "gpus.ini", "--check"]
    assert run(command, tmp_path).returncode == 2
    done = run(command, tmp_path, PYTHONPATH=str(tmp_path / "mine"))
    assert done.returncode == 0, done.stderr
