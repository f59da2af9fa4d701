"""The command `sign-ext`: parses the command line, runs one command, maps errors to exit codes.

Each command imports what it runs only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sign_ext.commands import COMMANDS
from sign_ext.commands.console import (
    FAILED,
    INTERRUPTED,
    OK,
    OUTPUT_CLOSED,
    USAGE,
    UsageError,
    close_output,
    output_is_closed,
    tolerate_any_text,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

INSTALL_EXTRAS = 'pip install "sign-ext[experiments]"'

DESCRIPTION = """\
SIGN, Signed Input Regularization: transforms images by K steps of the input
gradient of a trained network's last-layer sum, and trains on the result.

Start here:
  sign-ext demo                 the whole job in a few minutes, no download
  sign-ext COMMAND --help       what a command does, its options, examples
"""

EPILOG = """\
exit codes:
  0    done
  1    failed; one line on stderr says why (--debug or SIGN_EXT_DEBUG=1 adds
       the traceback)
  2    the command line is wrong: an unknown option, name or value
  130  interrupted
  141  nobody reads the output any more (as with `| head -1`)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sign-ext` with these arguments.

    Args:
        argv: Arguments without the program's name; by default those of this process.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong command line, 130 interrupted, 141 nobody reads
        the output any more.

    Example:
        >>> main(["--version"])  # doctest: +SKIP
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    tolerate_any_text(sys.stdout)
    debug = "--debug" in arguments or os.environ.get("SIGN_EXT_DEBUG", "0") not in ("", "0")
    name = next((word for word in arguments if word in COMMANDS), None)
    try:
        try:
            code = _run(arguments)
            _flush()
        except Exception as error:
            code = _report(error, name, debug)
    except KeyboardInterrupt:
        print("sign-ext: interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        code = OUTPUT_CLOSED
    close_output()
    return code


def _flush() -> None:
    """Write what is buffered, so that a full disk or a closed pipe is noticed here."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _report(error: Exception, name: str | None, debug: bool) -> int:
    """Print an error, and return the exit code."""
    if isinstance(error, BrokenPipeError) and output_is_closed():
        return OUTPUT_CLOSED
    if isinstance(error, UsageError):
        _print_error(error, debug)
        print(f"Try: sign-ext {name + ' ' if name else ''}--help", file=sys.stderr)
        return USAGE
    if isinstance(error, ModuleNotFoundError):
        if (error.name or "").partition(".")[0] == "sign_ext":
            raise error
        _print_error(f"the package {error.name!r} is missing; {INSTALL_EXTRAS}", debug)
        return FAILED
    _print_error(error, debug)
    return FAILED


def _run(arguments: list[str]) -> int:
    if not arguments:
        arguments = ["--help"]
    if arguments == ["--version"]:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"sign-ext {version('sign-ext')}")
        except PackageNotFoundError:
            print("sign-ext (running from a checkout, not installed)")
        return OK

    from jsonargparse import ArgumentError

    from sign_ext.commands.options import from_namespace

    try:
        values = build_parser().parse_args(arguments)
    except ArgumentError as error:
        raise UsageError(_tidy(str(error))) from error
    except SystemExit as stop:  # --help and --print-config have printed their output
        return int(stop.code or OK)
    if values.get("subcommand") is None:
        raise UsageError(f"no command given, choose one of: {', '.join(COMMANDS)}")
    module = importlib.import_module(f"sign_ext.commands.{values.subcommand}")
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        module.run(from_namespace(module.Options, values[values.subcommand]))
    return OK


def build_parser() -> ArgumentParser:
    """Build the parser of all commands, from each command's `Options` dataclass."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    from sign_ext.commands.options import add_options

    class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keeps the line breaks of descriptions and shows each option's type and default."""

    common: dict[str, Any] = {
        "exit_on_error": False,
        "allow_abbrev": False,
        "formatter_class": Formatter,
        "print_config": "--print-%s",
    }
    parser = ArgumentParser(prog="sign-ext", description=DESCRIPTION, epilog=EPILOG, **common)
    parser.add_argument("--version", action="store_true", help="Print the version and stop.")
    subcommands = parser.add_subcommands(required=False, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"sign_ext.commands.{name}")
        examples = "\n".join(f"  {line}" for line in module.EXAMPLES)
        command = ArgumentParser(
            description=f"{module.__doc__}",
            epilog=f"examples:\n{examples}\n\n{EPILOG}",
            **common,
        )
        add_options(command, module.Options)
        subcommands.add_subcommand(name, command, help=summary)
    return parser


def _tidy(message: str) -> str:
    """Put jsonargparse's multi-line message on one line, with the option as it is typed."""
    line = " ".join(message.split())
    if line.startswith('Parser key "'):
        key, _, rest = line.removeprefix('Parser key "').partition('"')
        line = f"--{key.replace('_', '-')}: {rest.lstrip(': ')}"
    return line


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning on one line, without its place in the sources."""
    print(f"sign-ext: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _print_error(error: object, debug: bool) -> None:
    if debug and isinstance(error, BaseException):
        traceback.print_exception(error)
    elif debug:
        traceback.print_exc()
    text = str(error)
    if details := getattr(error, "details", ()):
        for line in details:
            print(" ".join(line.split()), file=sys.stderr)
        text = getattr(error, "summary", text)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__}: {text}"
    print(f"sign-ext: error: {' '.join(text.split())}", file=sys.stderr)
