"""The command line: what is taken, and what is refused with status 2."""

from __future__ import annotations

import pytest

from comfygate.ctl.arguments import STATES, parse
from comfygate.model import JobState


def test_common_options_stand_before_the_command_or_after_it() -> None:
    for words in (["--json", "--state-dir", "/s", "status"], ["status", "--state-dir", "/s", "--json"]):
        found = parse(words)
        assert (found.command, found.json, found.state_dir, found.socket, found.timeout) == (
            "status",
            True,
            "/s",
            None,
            10.0,
        )
    assert parse(["--timeout", "1", "queue", "--timeout", "2"]).timeout == 2.0


def test_gpus_by_number_or_by_the_name_of_their_port() -> None:
    assert parse(["drain", "0", "gpu-3"]).gpus == [0, 3]
    assert parse(["logs", "2", "-n", "7", "-f"]).gpu == 2


def test_a_journal_and_one_of_its_prompts() -> None:
    assert parse(["journal", "--finished", "--state", "failed"]).show == []
    assert parse(["journal", "show", "3f2a"]).show == ["show", "3f2a"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice"),
        (["drain"], "name GPUs, or --all"),
        (["drain", "0", "--all"], "--all names all GPUs already"),
        (["drain", "first"], "a GPU is meant by its number"),
        (["cancel"], "name prompts, or --all"),
        (["cancel", "3f2a", "--all"], "--all names all prompts already"),
        (["cancel", "3f2a", "--gpu", "1"], "--gpu goes with --all only"),
        (["move", "3f2a"], "--to"),
        (["restart", "-1"], "a GPU is meant by its number"),
        (["status", "--timeout", "0"], "must be a number of seconds above 0"),
        (["status", "--timeout", "nan"], "must be a number of seconds above 0"),
        (["logs", "-n", "10001"], "must be a whole number from 0 to 10000"),
        (["journal", "show"], "write: comfygatectl journal show PROMPT_ID"),
        (["journal", "list"], "write: comfygatectl journal show PROMPT_ID"),
        (["journal", "--state", "finished"], "invalid choice: 'finished'"),
        (["--socket", "/s", "status", "--config", "c"], "name one daemon each; give only one of them"),
        (["status", "--state", "/s"], "unrecognized"),
    ],
)
def test_mistakes(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_every_command_has_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    commands = [
        *("status", "top", "queue", "move", "cancel", "drain", "undrain", "restart", "reload", "logs", "journal"),
    ]
    shown = capsys.readouterr().out
    for command in commands:
        assert f"    {command} " in shown
        with pytest.raises(SystemExit) as caught:
            parse([command, "--help"])
        assert caught.value.code == 0
        assert f"  comfygatectl {command}" in capsys.readouterr().out.partition("Examples:")[2]


def test_the_states_are_the_daemons() -> None:
    assert set(STATES) == {"stranded", *(one.value for one in JobState)}
