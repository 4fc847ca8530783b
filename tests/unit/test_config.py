from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from comfygate.config.settings import Config, ConfigError, PolicySpec, load, parse
from comfygate.routes import DEFAULT_METERED

HERE = "/etc/comfygate"
ENVIRON = {"HOME": "/home/ann", "STATE_DIRECTORY": "/var/lib/comfygate"}
SIMULATED = "[comfygate]\ncomfyui = simulator\n"


def read(text: str, environ: Mapping[str, str] = ENVIRON, existing: tuple[str, ...] = ()) -> Config:
    return parse(text, filename="gpus.ini", environ=environ, here=HERE, exists=existing.__contains__)


def mistake(text: str, environ: Mapping[str, str] = ENVIRON) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    return sentence(caught.value)


def sentence(error: ConfigError) -> str:
    """Check that the message is one sentence of one line, and return it."""
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert ".." not in text.removesuffix("...")
    return text


# -- what is read


@pytest.mark.parametrize(
    ("text", "gpus", "ports"),
    [
        ("", 9, [8181, 8182, 8183, 8184, 8185, 8186, 8187, 8189, 8190, 8188]),
        ("hub_port = 8182\n", 3, [8181, 8183, 8184, 8182]),
        ("hub_port = 8181\n", 2, [8182, 8183, 8181]),
        ("hub_port = 0\n", 8, [8181, 8182, 8183, 8184, 8185, 8186, 8187, 8188]),
        ("hub_port = 8000\n", 2, [8181, 8182, 8000]),
        ("[gpu:7]\nport = 9000\n", 8, [8181, 8182, 8183, 8184, 8185, 8186, 8187, 9000, 8188]),
    ],
)
def test_gpus_listen_in_order_and_leave_the_hub_its_port(text: str, gpus: int, ports: list[int]) -> None:
    config = read(SIMULATED + text)
    assert [gate.port for gate in config.gates_for(config.gpu_ids(gpus))] == ports


def test_every_value_has_a_default() -> None:
    config = read("", {"HOME": "/home/ann", "STATE_DIRECTORY": "/state", "COMFYUI_HOME": "/opt/ComfyUI"})
    assert config.comfyui == "/opt/ComfyUI"
    assert not config.simulated
    assert config.python == sys.executable
    assert config.devices == "all"
    assert config.interface == "127.0.0.1"
    assert (config.first_port, config.hub_port) == (8181, 8188)
    assert config.state_dir == "/state"
    assert not config.temporary
    assert config.control_socket == "/state/control.sock"
    assert (config.input_dir, config.output_dir) == ("/opt/ComfyUI/input", "/opt/ComfyUI/output")
    assert config.arguments == ()
    assert config.policy == PolicySpec("affinity")
    assert config.interrupt_policy == PolicySpec("ledger")
    assert (config.rate, config.burst, config.limit_by, config.max_wait) == (10, 20, "port", 0)
    assert config.metered == DEFAULT_METERED
    assert config.prefetch == 2
    assert config.max_pending == 10_000
    assert config.max_body == 0
    assert config.given == frozenset()
    assert (config.gpus, config.gates) == ({}, ())


def test_the_sample_of_the_documentation() -> None:
    config = read(
        """
[comfygate]
comfyui    = /opt/ComfyUI             ; folder with main.py, or "simulator" for the built-in stand-in
python     = /opt/ComfyUI/venv/bin/python
devices    = all                      ; "all" (NVML), "0,1,3", UUIDs, or "cpu*4"
interface  = 127.0.0.1
state_dir  = /var/lib/comfygate
input_dir  = /srv/in
arguments  = --preview-method auto    ; extra ComfyUI arguments
policy     = least-loaded

[gpu:2]                               ; overrides for one GPU
port       = 9000
arguments  = --lowvram

[gpu:4]
url        = http://127.0.0.1:9288    ; a ComfyUI that someone else runs

[gate:fast]                           ; one more port, over some of the GPUs
port       = 8190
gpus       = 0,1
policy     = round-robin
"""
    )
    assert config.arguments == ("--preview-method", "auto")
    assert config.input_dir == "/srv/in"
    assert config.overrides(2).arguments == ("--lowvram",)
    assert config.overrides(4).address == ("127.0.0.1", 9288)
    gates = {gate.name: gate for gate in config.gates_for(config.gpu_ids(4))}
    assert {name: gate.port for name, gate in gates.items()} == {
        "gpu-0": 8181,
        "gpu-1": 8182,
        "gpu-2": 9000,
        "gpu-3": 8184,
        "gpu-4": 8185,
        "hub": 8188,
        "fast": 8190,
    }
    assert gates["gpu-2"].gpu_ids == (2,)
    assert not gates["gpu-2"].several
    assert gates["hub"].gpu_ids == (0, 1, 2, 3, 4)
    assert gates["hub"].several
    assert gates["fast"].gpu_ids == (0, 1)
    assert gates["fast"].policy == PolicySpec("round-robin")


def test_percent_signs_hashes_and_semicolons_in_values() -> None:
    config = read(SIMULATED + "output_dir = /data/100%(x)s;a#b ; a comment\n# another\n; one more\n")
    assert config.output_dir == "/data/100%(x)s;a#b"


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("rate = 0.5", "rate", 0.5),
        ("rate = 0", "rate", 0),
        ("hub_port = 0", "hub_port", 0),
        ("limit_by = Client", "limit_by", "client"),
        ("log_size = 64k", "log_size", 65_536),
        ("max_body = 2G", "max_body", 2**31),
        ("max_body = 1000", "max_body", 1000),
        ("interface = ::1", "interface", "::1"),
        ("devices = 0, GPU-8f", "devices", "0, GPU-8f"),
        ("arguments = --a 'b c' \\\n", "arguments", None),
        ("arguments = --a 'b c'", "arguments", ("--a", "b c")),
        ("arguments = --a\n  --b=1", "arguments", ("--a", "--b=1")),
        ("arguments =", "arguments", ()),
        ("metered =", "metered", ()),
        ("metered = post  *, get /queue,\n  * /history/*", "metered", ("POST *", "GET /queue", "* /history/*")),
        ("policy = sticky", "policy", PolicySpec("sticky")),
        ("policy = affinity: bias=3, most = 2", "policy", PolicySpec("affinity", {"bias": "3", "most": "2"})),
        ("RATE = 3", "rate", 3),
        ("cors_origins =", "cors_origins", ()),
        ("cors_origins = Null", "cors_origins", ("null",)),
        ("cors_origins = *", "cors_origins", ("*",)),
        (
            "cors_origins = HTTP://LocalHost:3000,\n  https://tools.example:443, http://[::1]:80, null, null",
            "cors_origins",
            ("http://localhost:3000", "https://tools.example", "http://[::1]", "null"),
        ),
        ("cors_origins = chrome-extension://abc", "cors_origins", ("chrome-extension://abc",)),
    ],
)
def test_values(line: str, name: str, expected: object) -> None:
    if expected is None:
        assert name in mistake(SIMULATED + line)
    else:
        assert getattr(read(SIMULATED + line), name) == expected


def test_carriage_returns_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "gpus.ini"
    path.write_bytes(b"\xef\xbb\xbf[comfygate]\r\ncomfyui = simulator\r\nrate = 3\r\n")
    assert load(str(path), ENVIRON).rate == 3


# -- folders


def test_folders_are_relative_to_the_file_and_know_variables(tmp_path: Path) -> None:
    path = tmp_path / "gpus.ini"
    path.write_text(
        "[comfygate]\ncomfyui = ${ROOT}/ComfyUI\nstate_dir = state/../s\ninput_dir = ~/in\noutput_dir = $ROOT/$NAME\n"
    )
    config = load(str(path), {"HOME": "/home/ann", "ROOT": "/srv", "NAME": "out"})
    assert config.comfyui == "/srv/ComfyUI"
    assert config.state_dir == str(tmp_path / "s")
    assert config.input_dir == "/home/ann/in"
    assert config.output_dir == "/srv/out"
    assert config.given == {"comfyui", "state_dir", "input_dir", "output_dir"}


def test_the_simulator_keeps_its_folders_in_state_dir() -> None:
    config = read(SIMULATED + "state_dir = /s\n")
    assert config.simulated
    assert (config.input_dir, config.output_dir) == ("/s/input", "/s/output")
    assert config.python == sys.executable


def test_a_temporary_state_dir_is_a_new_one_each_time() -> None:
    text = SIMULATED + "state_dir = temporary\n"
    first, second = (read(text, {"TMPDIR": "/var/tmp"}) for _ in range(2))
    assert first.temporary
    assert os.path.dirname(first.state_dir) == "/var/tmp"
    assert first.state_dir != second.state_dir
    assert first.output_dir == first.state_dir + "/output"
    assert not os.path.exists(first.state_dir)


@pytest.mark.parametrize(
    ("environ", "root", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/gate:/other", "HOME": "/h"}, False, "/var/lib/gate"),
        ({"HOME": "/h"}, True, "/var/lib/comfygate"),
        ({"HOME": "/h"}, False, "/h/.local/state/comfygate"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, False, "/x/comfygate"),
    ],
)
def test_default_state_dir(
    environ: Mapping[str, str], root: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    assert read(SIMULATED, environ).state_dir == expected


COMFYUI = "[comfygate]\ncomfyui = /c\n"


@pytest.mark.parametrize(
    ("line", "extra", "existing", "expected"),
    [
        ("", {}, (), sys.executable),
        ("", {}, ("/c/.venv/bin/python",), "/c/.venv/bin/python"),
        ("", {}, ("/c/.venv/bin/python", "/c/venv/bin/python"), "/c/venv/bin/python"),
        ("", {"COMFYUI_PYTHON": "/p/python"}, ("/c/venv/bin/python",), "/p/python"),
        ("python = ../py/bin/python", {"COMFYUI_PYTHON": "/p/python"}, (), "/etc/py/bin/python"),
        ("python = sh", {"PATH": "/nowhere:/bin"}, (), "/bin/sh"),
    ],
)
def test_python(line: str, extra: Mapping[str, str], existing: tuple[str, ...], expected: str) -> None:
    assert read(COMFYUI + line, {**ENVIRON, **extra}, existing).python == expected


def test_state_dir_leaves_room_for_a_socket() -> None:
    longest = "/" + "s" * (107 - len("//control.sock"))
    assert len(read(SIMULATED + f"state_dir = {longest}").control_socket) == 107
    assert "state_dir: is too long for a UNIX socket" in mistake(SIMULATED + f"state_dir = {longest}s")
    # It is bytes that count.
    assert "too long" in mistake(SIMULATED + f"state_dir = /{'é' * 60}")


# -- ports


def test_gates_inherit_limits_and_override_them() -> None:
    config = read(
        SIMULATED
        + "rate = 5\nburst = 7\npolicy = sticky:a=1\n[gpu:1]\nrate = 1\nlimit_by = client\n"
        + "[gate:slow]\nport = 9000\nburst = 2\nmax_wait = 1.5\nmetered = POST /prompt\n"
    )
    gates = {gate.name: gate for gate in config.gates_for((0, 1))}
    assert (gates["gpu-0"].rate, gates["gpu-0"].burst, gates["gpu-0"].limit_by) == (5, 7, "port")
    assert (gates["gpu-1"].rate, gates["gpu-1"].burst, gates["gpu-1"].limit_by) == (1, 7, "client")
    assert (gates["slow"].rate, gates["slow"].burst, gates["slow"].max_wait) == (5, 2, 1.5)
    assert gates["slow"].metered == ("POST /prompt",)
    assert gates["slow"].gpu_ids == (0, 1)
    assert gates["slow"].policy == gates["hub"].policy == PolicySpec("sticky", {"a": "1"})
    # With one GPU there is nothing to choose, and its prompts run in their order.
    assert gates["gpu-0"].policy == PolicySpec("least-loaded")


def test_zero_overrides_a_rate() -> None:
    assert read(SIMULATED + "[gpu:0]\nrate = 0\nmetered =\n").gates_for((0,))[0].rate == 0


def test_no_hub() -> None:
    assert [gate.name for gate in read(SIMULATED + "hub_port = 0").gates_for((0, 1))] == ["gpu-0", "gpu-1"]


def misfit(text: str, devices: int) -> str:
    config = read(SIMULATED + text)
    with pytest.raises(ConfigError) as caught:
        config.gates_for(config.gpu_ids(devices))
    return sentence(caught.value)


@pytest.mark.parametrize(
    ("text", "devices", "expected"),
    [
        (
            "[gpu:1]\nport = 8181\n",
            2,
            "[gpu:1] port: port 8181 of gpu-1 is taken by gpu-0 ([comfygate] first_port)",
        ),
        ("[gpu:0]\nport = 8188", 1, "[comfygate] hub_port: port 8188 of hub is taken by gpu-0 ([gpu:0] port)"),
        ("[gate:x]\nport = 8188\n", 1, "[gate:x] port: port 8188 of x is taken by hub ([comfygate] hub_port)"),
        (
            "[gate:x]\nport = 9000\n[gate:y]\nport = 9000\n",
            1,
            "[gate:y] port: port 9000 of y is taken by x (",
        ),
        ("first_port = 65535", 2, "[comfygate] first_port: gpu-1 would listen on 65536, above 65535"),
        ("", 0, "[comfygate] devices: there is no GPU to serve; set devices"),
        ("[gpu:2]\nport = 9000\n", 2, "[gpu:2]: there is no GPU 2: there are 2, counted from 0"),
        ("[gpu:0]\nport = 9000\n", 0, "[gpu:0]: there is no GPU 0: there are none"),
        ("[gpu:3]\nurl = http://a\n", 2, "[gpu:3]: GPUs are numbered without gaps: call this one gpu:2"),
        ("[gate:x]\nport = 9000\ngpus = 0,2\n", 2, "[gate:x] gpus: there is no GPU 2; there are 0 to 1"),
        ("[gpu:1]\nurl = http://127.0.0.1:8188\n", 1, "[gpu:1] url: http://127.0.0.1:8188 is ComfyGate's own hub"),
        ("[gpu:0]\nurl = http://localhost:8181\n", 0, "[gpu:0] url: http://localhost:8181 is ComfyGate's own gpu-0"),
    ],
)
def test_what_does_not_fit_the_machine(text: str, devices: int, expected: str) -> None:
    assert expected in misfit(text, devices)


def test_gpus_with_a_url_only_are_counted_on() -> None:
    text = SIMULATED + "[gpu:10]\nurl = http://b\n[gpu:9]\nurl = http://a\n"
    assert read(text).gpu_ids(9) == tuple(range(11))
    assert read(SIMULATED + "devices = none\n[gpu:0]\nurl = http://a:81/\n").gpu_ids(0) == (0,)


def test_a_url_may_stand_in_for_a_device() -> None:
    assert read(SIMULATED + "[gpu:1]\nurl = http://a:81\n").gpu_ids(4) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("text", "url", "address"),
    [
        ("http://gpu7.lan:8188/", "http://gpu7.lan:8188", ("gpu7.lan", 8188)),
        ("http://10.0.0.7", "http://10.0.0.7:80", ("10.0.0.7", 80)),
        ("HTTP://[::1]:81", "http://[::1]:81", ("::1", 81)),
    ],
)
def test_urls(text: str, url: str, address: tuple[str, int]) -> None:
    overrides = read(SIMULATED + f"[gpu:0]\nurl = {text}\n").overrides(0)
    assert (overrides.url, overrides.address) == (url, address)


# -- mistakes that the text shows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate = 3\n", "gpus.ini, line 1: stands before any section; write [comfygate] above it."),
        ("[comfygate]\nrate\n", "gpus.ini, line 2: is not a [section], a key = value or a comment; correct it."),
        ("[comfygate]\nrate: 3\n", "line 2: is not a"),
        ("[comfygate]\nrate = 1\nrate = 2\n", "[comfygate] rate: is there twice, again in line 3; remove one of them."),
        ("[gpu:0]\n[gpu:0]\n", "gpus.ini, [gpu:0]: is there twice, again in line 2; join them."),
        ("[comfygate]\nrate = 1\0\n", "line 2: holds a control character; remove it."),
        ("[comfygat]\n", "[comfygat]: is not a section; perhaps [comfygate] is meant."),
        ("[ComfyGate]\n", "[ComfyGate]: is not a section; perhaps [comfygate] is meant."),
        ("[gpus:0]\n", "[gpus:0]: is not a section; perhaps [gpu:0] is meant."),
        ("[gpu 0]\n", "[gpu 0]: is not a section; perhaps [gpu:0] is meant."),
        ("[gpu:x]\n", "[gpu:x]: a GPU is meant by its number, counted from 0, not by 'x'"),
        ("[gpu:01]\n", "not by '01'"),
        ("[gpu:-1]\n", "not by '-1'"),
        ("[gate:]\n", "[gate:]: a gate's name is"),
        ("[gate:a b]\n", "[gate:a b]: a gate's name is"),
        ("[gate:hub]\nport = 1\n", "[gate:hub]: the name hub is taken by a port that hub_port sets"),
        ("[gate:gpu-1]\nport = 1\n", "the name gpu-1 is taken by a port that [gpu:1] sets"),
        ("[gate:gpu-fast]\nport = 1\n", "the name gpu-fast begins as those of the GPUs' own ports; leave gpu- out"),
        ("[gate:x]\n", "[gate:x] port: is missing; say where this gate listens."),
        ("[DEFAULT]\nrate = 1\n", "[DEFAULT]: is not a section; sections are [comfygate], [gpu:n] and [gate:name]."),
        ("[comfygate]\nport = 1\n", "[comfygate] port: is not a key of this section; perhaps hub_port is meant."),
        ("[comfygate]\nzzz = 1\n", "[comfygate] zzz: is not a key of this section; known are comfyui, python, devices"),
        ("[gpu:0]\nargs = 1\n", "[gpu:0] args: is not a key of this section; perhaps arguments is meant."),
        ("[gpu:0]\nurl = http://a\narguments = --x\n", "[gpu:0] arguments: are for a ComfyUI that ComfyGate starts"),
    ],
)
def test_mistakes_of_form(text: str, expected: str) -> None:
    assert expected in mistake(text if "[comfygate]" in text else text + SIMULATED, {**ENVIRON, "COMFYUI_HOME": "/c"})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rate = -1", "rate: must be a number from 0 to 1000000, not '-1'."),
        ("rate = nan", "rate: must be a number"),
        ("rate = inf", "rate: must be a number"),
        ("rate = 1e999", "rate: must be a number"),
        ("rate = ten", "rate: must be a number"),
        ("rate = 1_0", "rate: must be a number"),
        ("rate = ٣", "rate: must be a number"),
        ("rate =", "rate: is empty; give it a value, or remove the line."),
        ("rate = 1\n  burst = 3", "rate: goes on in an indented line, 'burst = 3'; if that is a key"),
        ("arguments = --a\n  rate = 3", "arguments: goes on in an indented line, 'rate = 3'; if that is a key"),
        ("burst = 0", "burst: must be a whole number from 1 to 1000000, not '0'."),
        ("burst = 1.5", "burst: must be a whole number"),
        ("burst = 99999999999999999999", "burst: must be a whole number"),
        ("max_wait = -0.1", "max_wait: must be a number from 0 to 600, not '-0.1'."),
        ("first_port = 0", "first_port: must be a whole number from 1 to 65535, not '0'."),
        ("first_port = 65536", "first_port: must be a whole number from 1 to 65535"),
        ("hub_port = -1", "hub_port: must be a whole number from 0 to 65535"),
        ("limit_by = user", "limit_by: must be port or client, not 'user'."),
        ("interface = localhost", "interface: must be an IP address such as 127.0.0.1"),
        ("interface = *", "interface: must be an IP address"),
        ("log_size = 10 MB", "log_size: must be a size such as 64K, 10M or 2G, from 4K to 1024G, not '10 MB'."),
        ("log_size = 1", "log_size: must be a size"),
        ("max_body = -1", "max_body: must be a size"),
        ("arguments = --a 'b", "arguments: has a quotation mark that is not closed"),
        ("arguments = --port 1", "arguments: must not hold --port: ComfyGate picks the ports"),
        (
            "arguments = --output-directory=/x",
            "must not hold --output-directory=/x: set output_dir instead.",
        ),
        ("policy = a b", "policy: must be a policy's name, or name:key=value,key=value, not 'a b'."),
        ("policy = a:", "policy: must be a policy's name"),
        ("policy = a:b", "policy: must be written name:key=value,key=value; 'b' is not key=value."),
        ("policy = a:b=1,,c=2", "policy: must be written"),
        ("policy = a:b=1,b=2", "policy: gives b twice"),
        ("interrupt_policy = :", "interrupt_policy: must be a policy's name"),
        ("metered = POST", "metered: must list patterns such as POST *"),
        ("metered = POST prompt", "metered: must list patterns"),
        ("metered = GET /a*b", "metered: must list patterns"),
        ("metered = GET /é", "metered: must list patterns"),
        ("metered = GET /api/queue", "metered: must name paths without /api, which is always meant too: '/queue'"),
        ('first_port = "9000"', "first_port: is in quotation marks; write 9000 without them."),
        ("state_dir = '/srv/x'", "state_dir: is in quotation marks; write /srv/x without them."),
        ('[gpu:0]\nname = ""', "[gpu:0] name: is in quotation marks; write a value without them."),
        ("arguments = --lowvram # little", "arguments: must not hold #: a comment after a value begins with ;."),
        (
            "restart_delay = 90",
            "[comfygate] restart_delay: is longer than restart_delay_max; make that at least as long.",
        ),
        ("devices = cuda:0", "devices: must be all, numbers such as 0,1,3, UUIDs, cpu*4 or none, not 'cuda:0'."),
        ("devices = cpu x 4", "devices: must be all"),
        ("devices = 0;1", "devices: must be all"),
        ("python = python9", "python: there is no python9 on the PATH; write where it is, from / on."),
        ("state_dir = ~bob/x", "state_dir: must name the folder in full"),
        ("input_dir = $NOPE/x", "input_dir: uses $NOPE, which is not set; set it, or write the path out."),
        ("[gpu:0]\nport = 70000", "[gpu:0] port: must be a whole number from 1 to 65535, not '70000'."),
        ("[gpu:0]\nurl = https://a", "[gpu:0] url: must be written http://host:port, not 'https://a'."),
        ("[gpu:0]\nurl = a:8188", "url: must be written"),
        ("[gpu:0]\nurl = http://", "url: must be written"),
        ("[gpu:0]\nurl = http://a:0", "url: must be written"),
        ("[gpu:0]\nurl = http://a:99999", "url: must be written"),
        ("[gpu:0]\nurl = http://a:b", "url: must be written"),
        ("[gpu:0]\nurl = http://u@a", "url: must be written"),
        ("[gpu:0]\nurl = http://a/x", "url: must be written"),
        ("[gpu:0]\nurl = http://[::1", "url: must be written"),
        ("[gate:x]\nport = 1\ngpus = a", "[gate:x] gpus: must be all, or GPU numbers such as 0,1,3, not 'a'."),
        ("[gate:x]\nport = 1\ngpus = 0,0", "[gate:x] gpus: names GPU 0 twice; leave one of them out."),
        ("[gate:x]\nport = 1\ngpus = -1", "[gate:x] gpus: must be all"),
    ],
)
def test_mistakes_of_values(line: str, expected: str) -> None:
    text = mistake(SIMULATED + line)
    assert text.startswith("gpus.ini, [")
    assert expected in text


def test_a_section_that_is_none_is_named_before_what_it_would_have_said() -> None:
    assert "perhaps [comfygate] is meant" in mistake("[comfygat]\ncomfyui = simulator\n")


def test_without_a_comfyui() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, ENVIRON)
    assert sentence(caught.value) == (
        "without a configuration file, [comfygate] comfyui: is not set; "
        "name ComfyUI's folder here or in $COMFYUI_HOME, or write simulator."
    )


def test_mistakes_that_others_find() -> None:
    config = read(SIMULATED)
    assert str(config.mistake("policy", ValueError("there is none."))) == "gpus.ini, [comfygate] policy: there is none."
    assert str(config.mistake("port", "it is taken", "gpu:1")) == "gpus.ini, [gpu:1] port: it is taken."


# -- files


def unreadable(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(str(path), ENVIRON)
    return sentence(caught.value).removeprefix(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert unreadable(tmp_path / "no.ini").startswith(": cannot be read (No such file or directory); ")
    assert unreadable(tmp_path).startswith(": cannot be read (Is a directory); ")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "gpus.ini"
    path.write_bytes(b"[comfygate]\n; caf\xe9\n")
    assert unreadable(path) == ", line 2: is not UTF-8; save the file in that encoding."
    path.write_bytes(b"; \n" * 400_000)
    assert unreadable(path).startswith(": is over 1 MiB")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("localhost:3000", "put http:// or https:// before it"),
        ("tools.example", "put http:// or https:// before it"),
        ("//tools.example", "put http:// or https:// before it"),
        ("http://tools.example/", "leave that out"),
        ("http://tools.example/page", "an origin ends there"),
        ("http://tools.example?x", "an origin ends there"),
        ("https://*.example", "list each origin, or write * alone"),
        ("http://tööls.example", "with xn--"),
        ("http://", "no valid host and port"),
        ("http://user@tools.example", "no valid host and port"),
        ("http://tools.example:0", "no valid host and port"),
        ("http://tools.example:65536", "no valid host and port"),
        ("http://a http://b", "put commas between"),
        ("file:///home/ann/page.html", "write null"),
        ("null, x", "put http:// or https:// before it"),
    ],
)
def test_what_is_no_origin(text: str, remedy: str) -> None:
    found = mistake(f"{SIMULATED}cors_origins = {text}\n")
    assert "cors_origins" in found
    assert remedy in found
