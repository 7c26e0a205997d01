"""Options from the command line, else from environment variables, else from a file, else their defaults.

ConfigArgParse does the work. Here is what it leaves open: a file of TOML in which every key has to be an option, errors
that say where a wrong value is from, and the effective values as such a file.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TextIO

import configargparse

__all__ = ["LayeredParser"]

PREFIX = "REJECTION_"
_NOT_IN_FILES = ("config", "print_config", "help", "version")
_COMMAND_LINE, _ENVIRONMENT, _FILE, _DEFAULT = "command line", "environment_variables", "config_file", "default"


class LayeredParser(configargparse.ArgumentParser):  # type: ignore[misc]  # it has no types
    """An `argparse.ArgumentParser` whose options may also be set by `REJECTION_...` and in the file of its `--config`.

    An empty environment variable is as good as none. A flag is set by true and left alone by false.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            auto_env_var_prefix=PREFIX,
            add_env_var_help=False,
            add_config_file_help=False,
            config_file_parser_class=_Toml,
            **settings,
        )

    def parse(self, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> argparse.Namespace:
        """The options; exits with status 2, after a sentence, for a wrong one wherever it is from."""
        config = self._option_string_actions["--config"]
        config.is_config_file_arg, config.env_var = True, f"{PREFIX}CONFIG"
        given = {name: value for name, value in environment.items() if value}
        options = self.parse_args(list(arguments), env_vars=given)
        assert isinstance(options, argparse.Namespace)
        return options

    def effective(self, options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> str:
        """What `parse` returned last, as a file for `--config`, a comment behind each value saying where it is from."""
        lines = []
        for action in self._actions:
            if action.dest in _NOT_IN_FILES:
                continue
            key, source = action.option_strings[-1].lstrip("-"), self._source(action, options)
            value = getattr(options, action.dest)
            if value is None and action.default is not None:
                value = "off"
            if value is None or (source == _DEFAULT and value in (False, {})):
                lines.append((f"# {key}", "not set"))
            else:
                lines.append((f"{key} = {_toml(value)}", source))
        width = max(len(setting) for setting, _ in lines)
        unknown = self._unknown(environment)
        return "".join(
            [
                *(f"{setting:{width}}  # {source}\n" for setting, source in lines),
                *(f"# {name} is set in the environment and is no option\n" for name in unknown),
            ]
        )

    def get_command_line_key_for_unknown_config_file_setting(self, key: str) -> NoReturn:
        """Called by ConfigArgParse for a key of the file that is no option."""
        self.error(f"{_Toml.path} has the key '{key}', which is no option: see --help")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where that is from if it is not from the command line; exit with 2."""
        source = next(
            (
                self._source(action, None)
                for action in self._actions
                if action.option_strings and message.startswith(f"argument {'/'.join(action.option_strings)}: ")
            ),
            _COMMAND_LINE,
        )
        super().error(message if source in (_COMMAND_LINE, _DEFAULT) else f"{message} (from {source})")
        raise AssertionError  # it has exited

    def _source(self, action: argparse.Action, options: argparse.Namespace | None) -> str:
        for source, settings in getattr(self, "_source_to_settings", {}).items():
            for key, (other, _) in settings.items():
                if other is action:
                    kind, _, path = source.partition("|")
                    return str({_ENVIRONMENT: key, _FILE: path}.get(kind, _DEFAULT))
        is_default = options is not None and getattr(options, action.dest) == action.default
        return _DEFAULT if is_default else _COMMAND_LINE

    def _unknown(self, environment: Mapping[str, str]) -> list[str]:
        known = {action.env_var for action in self._actions}
        # Of the scripts, and of the models' processes.
        known |= {f"{PREFIX}{name}" for name in ("SCRIPTS", "TRITON", "VENV")}
        return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


class _Toml(configargparse.ConfigFileParser):  # type: ignore[misc]
    """Reads one flat TOML table; raises ConfigFileParserException for what is none."""

    path = ""
    """Of the file that was read last."""

    def parse(self, stream: TextIO) -> dict[str, str | list[str]]:
        """Values by key, as the words that the command line would have."""
        path = _Toml.path = stream.name
        try:
            values = tomllib.loads(stream.read().removeprefix("\ufeff"))
        except ValueError as exc:
            raise configargparse.ConfigFileParserException(f"{path} is no TOML: {exc}") from exc
        for key, value in values.items():
            if key.replace("-", "_") in _NOT_IN_FILES:
                raise configargparse.ConfigFileParserException(f"{path} has the key '{key}', which no file can set")
            if not isinstance(value, bool | int | float | str):
                raise configargparse.ConfigFileParserException(
                    f"{path} has a {type(value).__name__} at '{key}': give a string, a number, true or false"
                )
        return {key: str(value) for key, value in values.items()}


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        value = ",".join(f"{name}={number:g}" for name, number in value.items())
    return str(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)
