"""Reads the settings: file, variables and flags laid over one another, and errors that say what to do.

How to think about it. Each place gives a nested mapping; they are merged key by key, flags over variables over
the file, and validated once. What was wrong is then traced back to the place that said it: a flag by its name,
a variable by its name, a key of the file by its line. An error is one line: where, which key, what is wrong,
and the remedy. A secret's value is never part of it.

Secrets need not stand in the file: ``${NAME}`` takes an environment variable and ``${file:/run/secrets/key}`` a
file's first line, wherever a setting is a secret, and nowhere else (policy data may hold ``${IFS}``).
"""

from __future__ import annotations

import difflib
import os
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from serving import strict_yaml
from serving.settings import Settings
from serving.settings_rules import violations

PREFIX = "INTERLOCK_"
CONFIG_VARIABLE = "INTERLOCK_CONFIG"
OPA_VARIABLE = "INTERLOCK_OPA"
"""The `opa` command of ``interlock policy`` too; counts as ``policies.opa``."""
_NOT_SETTINGS = (CONFIG_VARIABLE, OPA_VARIABLE, "INTERLOCK_CACHE", "INTERLOCK_LANE_", "INTERLOCK_TINY_")
"""Variables of other commands, or (ending in ``_``) what theirs begin with."""

Key = tuple[str | int, ...]


class ConfigProblem(msgspec.Struct, frozen=True):
    """``where``: ``interlock.yaml:12``, a variable's or a flag's name; ``key``: dotted, or empty."""

    where: str
    key: str
    message: str
    remedy: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.where}: {key}{self.message}; {self.remedy}"


class ConfigError(Exception):
    """The settings cannot be served. ``problems`` has at least one; the text is one line for each."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


class Override(msgspec.Struct, frozen=True):
    """A command-line flag's value. ``key`` is dotted (``listen.port``); ``origin`` the flag (``--port``)."""

    key: str
    value: Any
    origin: str


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Iterable[Override] = (),
) -> Settings:
    """The settings in force. ``file`` null: the one that ``INTERLOCK_CONFIG`` names, or none (there is no file
    that is read unasked). Raises ``ConfigError``."""
    environ = os.environ if environ is None else environ
    if file is None and environ.get(CONFIG_VARIABLE):
        file = Path(environ[CONFIG_VARIABLE]).expanduser()
    sources = _Sources(file, environ, list(overrides))
    try:
        settings = Settings(**sources.merged())
    except ValidationError as error:
        raise ConfigError([sources.problem(detail) for detail in error.errors(include_url=False)]) from None
    broken = violations(settings)
    if broken:
        raise ConfigError([ConfigProblem(sources.where(v.key), _dotted(v.key), v.message, v.remedy) for v in broken])
    return settings


def readable_secrets(file: Path) -> list[ConfigProblem]:
    """Secrets that stand in the file itself, if other users may read it. ``file`` has been loaded before."""
    if not file.stat().st_mode & 0o077:
        return []
    data, lines = strict_yaml.read(file.read_text(encoding="utf-8"))
    found = []
    for path, line in lines.items():
        value: Any = data
        for part in path:
            value = value[part]
        if isinstance(value, str) and _annotation(path) is SecretStr and not _REFERENCE.fullmatch(value):
            remedy = f"run `chmod 600 {file}`, or write ${{NAME}} or ${{file:/path}}"
            found.append(ConfigProblem(f"{file}:{line}", _dotted(path), "other users can read this secret", remedy))
    return found


class _Variables(EnvSettingsSource):
    """``INTERLOCK_*`` of a mapping that is given rather than of the process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


class _Sources:
    """The three places, and where each key was said."""

    def __init__(self, file: Path | None, environ: Mapping[str, str], overrides: list[Override]) -> None:
        self._file = file
        self._environ = environ
        self._overrides = {tuple(override.key.split(".")): override for override in overrides}
        self._lines: dict[Key, int] = {}

    def merged(self) -> dict[str, Any]:
        data: dict[str, Any] = self._resolved(self._read_file())
        _lay_over(data, self._read_variables())
        for path, override in self._overrides.items():
            nested: Any = override.value
            for name in reversed(path):
                nested = {name: nested}
            _lay_over(data, nested)
        return data

    def _read_file(self) -> dict[str, Any]:
        if self._file is None:
            return {}
        try:
            data, self._lines = strict_yaml.read(self._file.read_text(encoding="utf-8"))
        except OSError as error:
            raise self._failed(f"cannot be read: {error.strerror}", "give the path of a YAML file") from None
        except UnicodeDecodeError:
            raise self._failed("is not UTF-8", "save it as UTF-8 text") from None
        except strict_yaml.YamlProblem as problem:
            raise ConfigError(
                [ConfigProblem(f"{self._file}:{problem.line}", "", problem.message, problem.remedy)]
            ) from None
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise self._failed("must be a mapping of settings", "write `name: value` lines")
        return data

    def _failed(self, message: str, remedy: str) -> ConfigError:
        return ConfigError([ConfigProblem(str(self._file), "", message, remedy)])

    def _read_variables(self) -> dict[str, Any]:
        problems = []
        for name in self._environ:
            if not name.upper().startswith(PREFIX) or name.startswith(_NOT_SETTINGS):
                continue
            first = name[len(PREFIX) :].split("__")[0].lower()
            if first not in Settings.model_fields:
                remedy = _suggest(first, list(Settings.model_fields), lambda key: PREFIX + key.upper())
                problems.append(ConfigProblem(name, "", "is not a setting", remedy))
        if problems:
            raise ConfigError(problems)
        try:
            data = _Variables(self._environ)()
        except SettingsError as error:
            field = re.search(r'field "(\w+)"', str(error))
            where = PREFIX + field.group(1).upper() if field else PREFIX + "*"
            remedy = "write lists and sections as JSON, or set one key by SECTION__KEY"
            raise ConfigError([ConfigProblem(where, "", "is not valid JSON", remedy)]) from None
        if opa := self._environ.get(OPA_VARIABLE):
            data.setdefault("policies", {}).setdefault("opa", opa)
        return data

    def _resolved(self, data: Any, path: Key = ()) -> Any:
        """``${…}`` replaced wherever the model has a secret."""
        if isinstance(data, dict):
            return {name: self._resolved(value, (*path, name)) for name, value in data.items()}
        if isinstance(data, list):
            return [self._resolved(value, (*path, index)) for index, value in enumerate(data)]
        if isinstance(data, str) and (found := _REFERENCE.fullmatch(data)) and _annotation(path) is SecretStr:
            return self._secret(found.group(1), path)
        return data

    def _secret(self, reference: str, path: Key) -> str:
        where = self.where(path)
        if reference.startswith("file:"):
            secret_file = Path(reference.removeprefix("file:")).expanduser()
            try:
                return secret_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                problem = ConfigProblem(
                    where, _dotted(path), f"{secret_file} cannot be read: {why}", "make it readable"
                )
                raise ConfigError([problem]) from None
        if reference not in self._environ:
            problem = ConfigProblem(where, _dotted(path), f"the variable {reference} is not set", "export it first")
            raise ConfigError([problem])
        return self._environ[reference]

    def where(self, path: Key) -> str:
        """The flag, variable or line that said ``path``; for one that nothing says, the nearest line."""
        for end in range(len(path), 0, -1):
            prefix = path[:end]
            if prefix in self._overrides:
                return self._overrides[prefix].origin  # type: ignore[index]
            if variable := self._variable(prefix):
                return variable
            if prefix in self._lines:
                return f"{self._file}:{self._lines[prefix]}"
        return str(self._file) if self._file else "settings"

    def _variable(self, path: Key) -> str | None:
        wanted = PREFIX + "__".join(str(part) for part in path).upper()
        return next((name for name in self._environ if name.upper() == wanted), None)

    def problem(self, detail: ErrorDetails) -> ConfigProblem:
        path = _real_path(detail["loc"])
        message, remedy = _words(detail, path)
        return ConfigProblem(self.where(path), _dotted(path), message, remedy)


_REFERENCE = re.compile(r"\$\{((?:file:)?[^{}]+)\}")


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for name, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(name), dict):
            _lay_over(below[name], value)
        else:
            below[name] = value


def _dotted(path: Iterable[str | int]) -> str:
    return ".".join(str(part) for part in path)


def _real_path(location: tuple[int | str, ...]) -> Key:
    """pydantic's location without ``[key]``, which it appends for a mapping's bad key."""
    return tuple(part for part in location if part != "[key]")


def _annotation(path: Key) -> Any:
    """The type of the setting at ``path``, without its constraints and ``| None``; null if there is none."""
    here: Any = Settings
    for part in path:
        here = _bare(here)
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = field.annotation if field else None
        elif typing.get_origin(here) in (dict, list):
            here = typing.get_args(here)[-1]
        else:
            return None
    return _bare(here)


def _bare(annotation: Any) -> Any:
    while True:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            annotation = arguments[0]
        elif type(None) in arguments:
            annotation = next(argument for argument in arguments if argument is not type(None))
        else:
            return annotation


def _words(detail: ErrorDetails, path: Key) -> tuple[str, str]:
    """What is wrong with a value, and the remedy."""
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            section = _annotation(path[:-1])
            known = list(section.model_fields) if section is not None and path[:-1] else list(Settings.model_fields)
            return "is not a setting", _suggest(str(path[-1]), known, elsewhere=path[:-1])
        case "missing":
            return "is missing", "add it"
        case "literal_error":
            return f"is {_shown(detail, path)}", f"use one of {context.get('expected')}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a section of `name: value` lines", "indent its settings below it"
        case "list_type":
            return "must be a list", "write [a, b], or one `- item` per line"
        case "string_pattern_mismatch":
            return "has a form that is not allowed", f"it must match {context.get('pattern')}"
        case "string_too_short" | "too_short":
            return "is empty", "give a value, or leave the key out"
        case "value_error":
            return str(context.get("error")), "correct it"
    expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"is {_shown(detail, path)}", f"it must be {expected}"


def _shown(detail: ErrorDetails, path: Key) -> str:
    value = detail["input"]
    if _annotation(path) is SecretStr or not isinstance(value, str | int | float | bool | None):
        return "not of the right kind"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _suggest(
    name: str,
    known: list[str],
    spell: typing.Callable[[str], str] = lambda key: f"`{key}`",
    elsewhere: Key | None = None,
) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {spell(close[0])}?"
    if elsewhere is not None:
        for section, field in Settings.model_fields.items():
            model = _bare(field.annotation)
            if isinstance(model, type) and issubclass(model, BaseModel) and name in model.model_fields:
                return f"it belongs under `{section}`"
    return f"known here: {', '.join(spell(key) for key in known)}"
