"""What a daemon claims for itself, and whom it blames when it cannot."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfygate.claims import StateFolder, claim_ports
from comfygate.config.settings import Config, ConfigError, parse
from tests.ports import free_ports


def read(folder: Path, text: str = "") -> Config:
    text = f"[comfygate]\ncomfyui = simulator\nstate_dir = state\n{text}"
    return parse(text, filename="gpus.ini", environ={}, here=str(folder))


def ports_refused(config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        claim_ports(config, config.gates_for(config.gpu_ids(1)))
    return str(caught.value)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_folder_belongs_to_one_daemon_at_a_time(tmp_path: Path) -> None:
    config = read(tmp_path)
    first = StateFolder(config)
    with pytest.raises(ConfigError, match=r"\[comfygate\] state_dir: .* is in use by another ComfyGate"):
        StateFolder(config)
    first.release()
    StateFolder(config).release()


@pytest.mark.parametrize("key", ["state_dir", "input_dir", "output_dir"])
def test_a_folder_is_blamed_on_its_key(key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("short")  # the path of a UNIX socket has a bound
    (folder / "file").touch()
    place = folder / "file" / "folder"
    lines = {"state_dir": "temporary", key: str(place)}
    text = "".join(f"{name} = {value}\n" for name, value in lines.items())
    config = parse(
        f"[comfygate]\ncomfyui = simulator\n{text}", filename="gpus.ini", environ={"TMPDIR": str(folder)}, here="/"
    )
    with pytest.raises(ConfigError) as caught:
        StateFolder(config)
    assert str(caught.value) == (
        f"gpus.ini, [comfygate] {key}: {place} cannot be made (Not a directory); "
        "let this user write there, or name another folder."
    )
    assert os.listdir(folder) == ["file"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("first_port = {port}\nhub_port = 0\n", "[comfygate] first_port: gpu-0"),
        ("hub_port = {port}\n[gpu:0]\nport = {free}\n", "[comfygate] hub_port: hub"),
        ("hub_port = 0\n[gpu:0]\nport = {port}\n", "[gpu:0] port: gpu-0"),
        ("hub_port = 0\n[gpu:0]\nport = {free}\n[gate:fast]\nport = {port}\n", "[gate:fast] port: fast"),
    ],
)
def test_a_port_in_use_is_blamed_on_the_key_that_chose_it(text: str, place: str, taken: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    assert ports_refused(read(tmp_path, text.format(port=taken, free=free))) == (
        f"gpus.ini, {place} cannot listen on 127.0.0.1 port {taken} (Address already in use); "
        "stop what listens there, or choose another port."
    )


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    message = ports_refused(read(tmp_path, "interface = 192.0.2.1\n"))
    assert message.startswith("gpus.ini, [comfygate] interface: gpu-0 cannot listen on 192.0.2.1 port 8181 (")
    assert message.endswith("); name an address of this machine.")


def test_a_port_that_only_root_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    message = ports_refused(read(tmp_path, "first_port = 80\n"))
    assert message.endswith("port 80 (Permission denied); choose a port from 1024 on, which anybody may take.")


def test_a_gate_that_takes_the_place_of_another_gets_its_socket(tmp_path: Path) -> None:
    config = read(tmp_path, f"hub_port = 0\nfirst_port = {free_ports()}\n")
    gates = config.gates_for((0,))
    with claim_ports(config, gates)["gpu-0"] as listening:
        ours = {("127.0.0.1", gates[0].port): listening}
        with claim_ports(config, gates, ours)["gpu-0"] as second:
            listening.close()
            socket.create_connection(second.getsockname(), 1).close()


def test_a_port_moves_to_an_address_that_includes_the_old_one_and_stays_ours(tmp_path: Path) -> None:
    text = f"hub_port = 0\nfirst_port = {free_ports()}\n"
    config, everywhere = read(tmp_path, text), read(tmp_path, text + "interface = 0.0.0.0\n")
    gates = config.gates_for((0,))
    with claim_ports(config, gates)["gpu-0"] as listening:
        assert "Address already in use" in ports_refused(everywhere)
        ours = {("127.0.0.1", gates[0].port): listening}
        with claim_ports(everywhere, gates, ours)["gpu-0"] as second:
            for one in (listening, second):
                assert not one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            assert "Address already in use" in ports_refused(everywhere)
