"""The configuration as text: a file's sections and keys, or the place of the mistake."""

from __future__ import annotations

import configparser
import difflib
import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from comfygate.config.keys import Key

MAX_FILE = 2**20


class ConfigError(Exception):
    """A mistake in the configuration: one sentence that names the file, the
    section, the key and the remedy.
    """

    def __init__(self, filename: str, section: str, key: str, message: str) -> None:
        place = " ".join(part for part in (f"[{section}]" if section else "", key) if part)
        where = ", ".join(part for part in (filename, place) if part)
        super().__init__(f"{where}: {message}.")


def read_file(path: str, shown: str | None = None) -> str:
    """Read a file.

    :param shown: what messages call it, if not `path`.
    :raises ConfigError: if it cannot be read, is no text in UTF-8, or is too large.
    """
    shown = shown or path
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        message = f"cannot be read ({error.strerror}); name a file that can be, with --config"
        raise ConfigError(shown, "", "", message) from None
    if len(data) > MAX_FILE:
        raise ConfigError(
            shown or path, "", "", "is over 1 MiB, so it is not a configuration; name another with --config"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(shown, "", f"line {number}", "is not UTF-8; save the file in that encoding") from None


def read_sections(text: str, filename: str) -> dict[str, dict[str, str]]:
    """Split text into sections and their keys.

    :raises ConfigError: for text that is not in the form of an INI file.
    """
    bad = re.search(r"[^\n\r\t -~\x80-\U0010ffff]", text)
    if bad:
        number = text.count("\n", 0, bad.start()) + 1
        raise ConfigError(filename, "", f"line {number}", "holds a control character; remove it")
    parser = configparser.ConfigParser(
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=(";",),
        default_section="",
        empty_lines_in_values=False,
        interpolation=None,
    )
    try:
        parser.read_string(text, filename)
    except configparser.DuplicateSectionError as error:
        message = f"is there twice, again in line {error.lineno}; join them"
        raise ConfigError(filename, error.section, "", message) from None
    except configparser.DuplicateOptionError as error:
        message = f"is there twice, again in line {error.lineno}; remove one of them"
        raise ConfigError(filename, error.section, error.option, message) from None
    except configparser.MissingSectionHeaderError as error:
        message = "stands before any section; write [comfygate] above it"
        raise ConfigError(filename, "", f"line {error.lineno}", message) from None
    except configparser.ParsingError as error:
        number = error.errors[0][0]
        message = "is not a [section], a key = value or a comment; correct it"
        raise ConfigError(filename, "", f"line {number}", message) from None
    return {name: dict(parser.items(name)) for name in parser.sections()}


@frozen
class Section:
    """One section's text, and its reading by a table of keys."""

    filename: str
    name: str
    keys: tuple[Key, ...]
    text: Mapping[str, str]

    def mistake(self, key: str, message: object) -> ConfigError:
        """Say what is wrong with a key."""
        return ConfigError(self.filename, self.name, key, str(message))

    def values(self) -> dict[str, Any]:
        """The value of every key, ``None`` where there is no fixed default."""
        known = {key.name: key for key in self.keys}
        for name in self.text:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5)
                remedy = f"perhaps {near[0]} is meant" if near else f"known are {', '.join(known)}"
                raise self.mistake(name, f"is not a key of this section; {remedy}")
        return {key.name: self._value(key) for key in self.keys}

    def _value(self, key: Key) -> Any:
        text = self.text.get(key.name)
        if text is None:
            return key.read(key.default) if key.default or (key.blank and not key.otherwise) else None
        if not text.strip() and not key.blank:
            raise self.mistake(key.name, "is empty; give it a value, or remove the line")
        lines = text.splitlines()
        names = {known.name for known in self.keys}
        for line in lines[1:]:
            if not key.lines or (line.partition("=")[0].strip() in names and "=" in line):
                message = f"goes on in an indented line, {line.strip()!r}; if that is a key, begin it without spaces"
                raise self.mistake(key.name, message)
        if not key.lines and re.fullmatch(r"(['\"]).*\1", text):
            raise self.mistake(key.name, f"is in quotation marks; write {text[1:-1] or 'a value'} without them")
        try:
            return key.read(text)
        except ValueError as error:
            raise self.mistake(key.name, error) from None


def unknown_section(filename: str, name: str) -> ConfigError:
    """Say what a section may be called."""
    kind, colon, rest = name.partition(":")
    if colon and kind == "gate":
        return ConfigError(filename, name, "", "a gate's name is letters, digits, - and _; write [gate:fast], say")
    if colon and kind == "gpu":
        message = f"a GPU is meant by its number, counted from 0, not by {rest!r}; write [gpu:0], say"
        return ConfigError(filename, name, "", message)
    word = re.split(r"[^a-z]", name.strip().lower())[0]
    near = difflib.get_close_matches(word, ("comfygate", "gpu", "gate"), 1, 0.6)
    shown = {"comfygate": "[comfygate]", "gpu": "[gpu:0]", "gate": "[gate:fast]"}
    remedy = f"perhaps {shown[near[0]]} is meant" if near else "sections are [comfygate], [gpu:n] and [gate:name]"
    return ConfigError(filename, name, "", f"is not a section; {remedy}")
