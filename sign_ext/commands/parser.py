"""From the words of a command line, or a YAML file, to a command's options.

jsonargparse does it; each value is read by `value_types`, so that errors say what is accepted.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import re
from collections.abc import Sequence
from typing import Any, NoReturn, get_origin

from jsonargparse import ActionConfigFile, ArgumentParser

from sign_ext.commands.console import UsageError
from sign_ext.commands.help_text import HelpFormatter, explain, shown
from sign_ext.commands.options import Command, OutputOptions, flag_of, spec_of
from sign_ext.commands.value_types import read
from sign_ext.formatting import closest, did_you_mean, listed


def parse(name: str, command: Command, words: Sequence[str]) -> OutputOptions | None:
    """Read a command's options from the command line.

    Args:
        name: of the command.
        command: its module.
        words: what follows the command's name.

    Returns:
        An instance of the module's `Options`, or None if help or a configuration was printed.

    Raises:
        UsageError: an unknown option, a value that is not accepted, or a missing one.
    """
    parser = Parser(name, command)
    try:
        found = parser.parse_args(words)
    except SystemExit:
        return None
    given: dict[str, Any] = {}
    for key in parser.fields:
        if found[key] is not None:
            given[key] = tuple(found[key]) if isinstance(found[key], list) else found[key]
    return command.Options(**given)


class Parser(ArgumentParser):
    """The parser of one command, with an option for each field of its `Options`."""

    def __init__(self, name: str, command: Command) -> None:
        """Add the options of a command."""
        super().__init__(
            prog=f"sign-ext {name}",
            description=command.__doc__,
            epilog="\n".join(["examples:", *command.EXAMPLES]).replace("\n", "\n  "),
            formatter_class=HelpFormatter,
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
            print_config="--print-%s",
        )
        # What begins with "-" and is a value all the same; argparse's own lacks -1e-3 and -inf.
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|^-inf$", re.I)
        self.fields = {field.name: field for field in dataclasses.fields(command.Options)}
        self._action_groups = []  # replaced by those of the options
        for heading, fields in _sections(command.Options).items():
            group = self.add_argument_group(heading)
            if heading == OutputOptions.HEADING:
                self._optionals = group  # where jsonargparse adds --config and --print-config
                text = "Read options from a YAML file, by their names; options after it win."
                self.add_argument(
                    "--config", action=_Config, metavar="--config FILE.yaml", help=text
                )
                printing = self._actions[-1]
                printing.metavar = "--print-config[=skip_default]"
                printing.help = "Print the options as such a file, and stop."
            for field in fields:
                _add(group, field)
        self.add_argument("-h", "--help", action="help", help="Show this text.")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what jsonargparse would print, in the words of the help."""
        kind, _, rest = message.partition(": ")
        if isinstance(ex, argparse.ArgumentError) and ex.argument_name is not None:
            action = self._option_string_actions.get(ex.argument_name)
            shown_as = getattr(action, "metavar", ex.argument_name)
            message = f"{ex.argument_name}: {ex.message}; type it as `{shown_as}`"
        elif kind == "unrecognized arguments":
            message = self._unexpected(rest.split())
        elif kind == "the following arguments are required":
            flags = [flag_of(self.fields[name]) for name in rest.split(", ")]
            message = f"{listed(flags)} {'is' if len(flags) == 1 else 'are'} required"
        elif kind.startswith('Parser key "'):  # of a list or a mapping, which `read` does not see
            field = self.fields[kind.split('"')[1]]
            wanted = "a list" if spec_of(field).nargs else "{NAME: VALUE, …}"
            message = f"{flag_of(field)} needs {wanted}, as `{shown(field)}` gives"
        raise UsageError(message) from ex

    def _unexpected(self, extra: Sequence[str]) -> str:
        """Say what is wrong with words that are no option and no value of one."""
        word = next((each for each in extra if each.startswith("-")), None)
        if word is None:
            return f"{extra[0]!r} is one word too many: it belongs to no option"
        flag = word.partition("=")[0]
        # Without the dashes, which would make all options alike.
        flags = [name.strip("-") for action in self._actions for name in action.option_strings]
        close = closest(flag.strip("-"), flags)
        hint = "" if close is None else f", did you mean --{close}?"
        return f"{flag} is not an option of `{self.prog}`{hint}"


def _sections(options: type[OutputOptions]) -> dict[str, list[dataclasses.Field[Any]]]:
    """Divide fields among the headings of the help: those of the classes that declare them."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    needed = [field for field in fields.values() if field.default is dataclasses.MISSING]
    found: dict[str, list[dataclasses.Field[Any]]] = {
        "arguments": [field for field in needed if spec_of(field).positional],
        "required": [field for field in needed if not spec_of(field).positional],
        "options": [],
    }
    for owner in options.__mro__:
        own = [fields.pop(name) for name in inspect.get_annotations(owner) if name in fields]
        into = found.setdefault(vars(owner).get("HEADING", "options"), [])
        into += [field for field in own if field not in needed]
    common = found.pop(OutputOptions.HEADING)
    return {**found, OutputOptions.HEADING: common}


def _add(group: Any, field: dataclasses.Field[Any]) -> None:
    spec, flag = spec_of(field), flag_of(field)
    settings: dict[str, Any] = {"help": explain(field)}
    if field.default is not dataclasses.MISSING:
        settings["default"] = list(d) if isinstance(d := field.default, tuple) else d
    if spec.type is bool:
        settings["action"] = "store_true"
    elif get_origin(spec.type) is dict:
        settings["type"] = spec.type
    else:
        settings["nargs"] = spec.nargs
    action = group.add_argument(field.name if spec.positional else flag, **settings)
    action.metavar, action.required = shown(field), field.default is dataclasses.MISSING
    if get_origin(spec.type) is not dict:
        action.type = functools.partial(read, spec.type, flag)


class _Config(ActionConfigFile):  # type: ignore[misc]
    """Reads a YAML file with the names of options."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
            for name, value in vars(namespace).items():
                if name != self.dest:
                    self._check(name, value, parser.fields)
        except UsageError as error:
            raise UsageError(f"--config {values}: {error}") from error
        except (TypeError, ValueError) as error:  # a file that cannot be read
            raise UsageError(f"--config {values}: {error.__cause__ or error}") from error

    def _check(self, name: str, value: Any, fields: dict[str, dataclasses.Field[Any]]) -> None:
        """Check what jsonargparse takes unchecked: names, and how many values a list has."""
        if name not in fields:
            raise UsageError(f"{name!r} is not an option{did_you_mean(name, fields)}")
        accepted = ("+" if value else 0, len(value)) if isinstance(value, list) else None
        if accepted and spec_of(fields[name]).nargs not in accepted:
            flag, values = flag_of(fields[name]), shown(fields[name])
            raise UsageError(f"{flag} is {value}; accepted: a list, as `{values}` gives")
