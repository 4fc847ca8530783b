"""Whoever adds a key says what its new value does to a running daemon."""

from __future__ import annotations

import pytest

from comfygate.config.effects import EFFECTS
from comfygate.config.keys import GATE, GPU, MAIN, Key


@pytest.mark.parametrize(("section", "keys"), [("comfygate", MAIN), ("gpu", GPU), ("gate", GATE)])
def test_every_key_has_an_effect(section: str, keys: tuple[Key, ...]) -> None:
    missing = {key.name for key in keys} ^ EFFECTS[section].keys()
    assert not missing, f"comfygate/config/effects.py and keys.py differ in {', '.join(sorted(missing))} of [{section}]"
