"""The command `sign-ext`: parses the command line, runs one command, maps errors to exit codes.

Each command imports what it runs only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from sign_ext.commands import COMMANDS, CONTINUED, GROUPS
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
from sign_ext.commands.help_text import HelpFormatter
from sign_ext.commands.options import check_values
from sign_ext.formatting import did_you_mean

DESCRIPTION = """\
usage: sign-ext COMMAND [options]

SIGN, Signed Input Regularization: transforms images by K steps of the input
gradient of a trained network's last-layer sum, and trains on the result.

Start here:
  sign-ext demo                 the whole job in a few minutes, no download
  sign-ext COMMAND --help       what a command does, its options, examples
  sign-ext --version            the version\
"""

EPILOG = """\
exit codes:
  0    done
  1    failed; one line on stderr says why (--debug or SIGN_EXT_DEBUG=1 adds
       the traceback)
  2    the command line is wrong: an unknown option, name or value
  130  interrupted
  141  nobody reads the output any more (as with `| head -1`)\
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
    name = arguments[0] if arguments and arguments[0] in COMMANDS else None
    try:
        try:
            code = _run(arguments)
            _flush()
        except Exception as error:
            code = _report(error, name, debug)
    except KeyboardInterrupt:
        how = CONTINUED.get(name or "")
        print(f"sign-ext: interrupted{f'; {how}' if how else ''}", file=sys.stderr)
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
        _print_error(_missing(error.name or str(error)), debug)
        return FAILED
    _print_error(error, debug)
    return FAILED


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return OK
    name, *words = arguments
    if name == "--version":
        print(_version())
        return OK
    if name.startswith("-"):
        raise UsageError(f"{name} stands before the command; type sign-ext COMMAND {name} …")
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or ";"
        raise UsageError(f"{name!r} is not a command{hint} accepted: {', '.join(COMMANDS)}")
    from sign_ext.commands.parser import parse

    module = importlib.import_module(f"sign_ext.commands.{name}")
    options = parse(name, module, words)
    if options is None:
        return OK
    check_values(options)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        module.run(options)
    return OK


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"sign-ext {version('sign-ext')}"
    except PackageNotFoundError:
        return "sign-ext (running from a checkout, not installed)"


def overview() -> str:
    """Return the text of `sign-ext --help`."""
    formatter = HelpFormatter("sign-ext", column=14)
    formatter.add_text(DESCRIPTION)
    for heading, group in GROUPS.items():
        formatter.start_section(heading)
        formatter.add_arguments(
            [argparse.Action([], name, metavar=name, help=text) for name, text in group.items()]
        )
        formatter.end_section()
    formatter.add_text(EPILOG)
    return formatter.format_help().rstrip()


# The packages that are imported under another name than they are installed by.
_DISTRIBUTIONS = {"pil": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def _missing(module: str) -> str:
    """Say how to install a module's package: by itself, or with the extra that it belongs to."""
    from importlib.metadata import PackageNotFoundError, requires

    top = module.partition(".")[0].lower()
    package = _DISTRIBUTIONS.get(top, top.replace("_", "-"))
    try:
        required = requires("sign-ext") or []
    except PackageNotFoundError:
        required = []
    for line in required:
        name = re.match(r"[\w.-]+", line)
        if name is None or name[0].lower() != package:
            continue
        hint = f"the package {module!r} is missing: pip install {name[0]}"
        extra = re.search(r"""extra == ['"](\w+)""", line)
        return (
            f"{hint}, or all that the commands need, in a checkout of sign_ext: pip install "
            f'".[{extra[1]}]"'
            if extra
            else hint
        )
    return f"the package {module!r} is missing: install it"


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
