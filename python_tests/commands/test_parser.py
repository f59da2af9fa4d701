"""From words, or a YAML file, to options: values, their types in words, and the help's layout."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from sign_ext.commands.console import UsageError
from sign_ext.commands.options import (
    Number,
    OutputOptions,
    PositiveInt,
    check_values,
    command_line,
    option,
)
from sign_ext.commands.parser import Parser, parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(OutputOptions):
    things: tuple[str, ...] = option(
        positional=True, nargs="+", metavar="THING", help="What to take."
    )
    out: str = option(metavar="DIR", help="Where to put it.")
    size: float | str = option("auto", type=float | Literal["auto"], help="How large it becomes.")
    pair: tuple[float, ...] | None = option(
        None, type=float, nargs=2, metavar=("LO", "HI"), help="Bounds. Default: none."
    )
    steps: tuple[int, ...] = option((5, 9), type=PositiveInt, nargs="+", help="Steps.")
    extra: dict[str, Any] | None = option(None, type=dict[str, Any], help="More.")  # noqa: RUF009 (a field)
    loud: bool = option(False, type=bool, help="Say more.")


def must_be_odd(value: Any) -> None:
    if value % 2 == 0:
        raise UsageError(f"--odd is {value}, which is even")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked(OutputOptions):
    odd: int | None = option(None, type=int, check=must_be_odd, help="An odd number.")

    def check(self) -> None:
        if self.json and self.odd is None:
            raise UsageError("--json needs --odd")


def command(options: type[Any]) -> Any:
    module = ModuleType("try", "Try it out.\n\nA second paragraph that says more about it.")
    module.Options, module.EXAMPLES = options, ("sign-ext try a --out o",)  # type: ignore[attr-defined]
    return module


def parsed(*words: str) -> Any:
    return parse("try", command(Options), words)


def refused(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parsed(*words)
    return str(caught.value)


def test_words_become_values_of_their_types() -> None:
    found = parsed("a", "b", "--out=o", "--size", "2.5", "--steps", "1", "2", "--loud")
    assert found == Options(things=("a", "b"), out="o", size=2.5, steps=(1, 2), loud=True)
    assert parsed("--out", "o", "a") == Options(things=("a",), out="o")
    assert parsed("a", "--out", "o", "--size", "auto").size == "auto"


def test_negative_and_infinite_numbers_are_no_options() -> None:
    assert parsed("a", "--out", "o", "--pair", "-1e-3", "-inf").pair == (-0.001, -math.inf)
    assert refused("a", "--out", "o", "--pair", "-1", "nan") == (
        "--pair is 'nan'; accepted: a number"
    )


def test_mappings_take_a_key_at_a_time_or_yaml() -> None:
    words = ("--extra.rate", "1e-1", "--extra.kind=keras", "--extra.on", "true", "--extra.n", "3")
    wanted = {"rate": 0.1, "kind": "keras", "on": True, "n": 3}
    assert parsed("a", "--out", "o", *words).extra == wanted
    assert parsed("a", "--out", "o", "--extra", "{kind: keras}").extra == {"kind": "keras"}
    assert "--extra needs {NAME: VALUE, …}, as" in refused("a", "--out", "o", "--extra", "3")


def test_alternatives_are_all_in_the_error() -> None:
    said = refused("a", "--out", "o", "--size", "aut")
    assert said == "--size is 'aut', did you mean 'auto'? accepted: a number or auto"


@pytest.mark.parametrize(
    ("kind", "good", "bad", "words"),
    [
        (Number(whole=True), ["-3", 7], ["1.0", "x", 1.0, True, None], "a whole number"),
        (Number(whole=True, least=2), ["2"], ["1", "-1"], "a whole number of at least 2"),
        (Number(above=0), ["1e-9", 3], ["0", "-1", "inf", "nan", "1,5"], "a number above 0"),
        (Number(), ["-inf", "1e3"], ["nan", "", []], "a number"),
    ],
)
def test_numbers(kind: Number, good: list[Any], bad: list[Any], words: str) -> None:
    assert kind.words == words
    for value in good:
        assert kind.read(value) == float(value)
    for value in bad:
        with pytest.raises(ValueError, match=f"is not {words}$"):
            kind.read(value)


def test_a_file_is_read_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("things: [a]\nout: o\nsize: 1e-3\nsteps: [3]\nextra: {n: 1}\nloud: true\n")
    assert parsed("--config", str(file)) == Options(
        things=("a",), out="o", size=0.001, steps=(3,), extra={"n": 1}, loud=True
    )
    assert parsed("--config", str(file), "--size", "2").size == 2
    assert parsed("--size", "2", "--config", str(file)).size == 0.001


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepz: [3]", "'stepz' is not an option, did you mean 'steps'?"),
        ("steps: 3", "--steps needs a list, as `--steps N [N ...]` gives"),
        ("steps: [0]", "steps is 0; accepted: a whole number of at least 1"),
        ("steps: []", "--steps is []; accepted: a list, as `--steps N [N ...]` gives"),
        ("pair: [1]", "--pair is [1.0]; accepted: a list, as `--pair LO HI` gives"),
        ("out: 3", "out is 3; accepted: text"),
        ("loud: 1", "loud is 1; accepted: true or false"),
        ("- steps", "Unexpected config"),
        ("a: [", "Problems parsing config"),
    ],
)
def test_wrong_files(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(text)
    assert refused("--config", str(file)).startswith(f"--config {file}")
    assert says in refused("--config", str(file))


def test_null_in_a_file_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("out: null\nsteps: null\n")
    assert refused("a", "--config", str(file)) == "--out is required"
    assert parsed("a", "--config", str(file), "--out", "o").steps == (5, 9)


def test_checks_see_values_that_were_given() -> None:
    def run(*words: str) -> None:
        options = parse("try", command(Checked), words)
        assert options is not None
        check_values(options)

    run()
    run("--odd", "3", "--json")
    with pytest.raises(UsageError, match="--odd is 4, which is even"):
        run("--odd", "4")
    with pytest.raises(UsageError, match="--json needs --odd"):
        run("--json")


def test_a_command_line_with_a_mapping_is_read_back() -> None:
    given = Options(things=("a",), out="o", extra={"n": 1, "kind": "keras", "on": True})
    _, _, *words = command_line("try", given).split()
    assert parsed(*words) == given


def test_the_help_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = Parser("try", command(Options)).format_help().splitlines()
    assert lines[0] == "usage: sign-ext try THING [THING ...] --out DIR [options]"
    text = " ".join(" ".join(lines).split())
    assert "arguments: THING [THING ...] What to take. required: --out DIR Where" in text
    assert "--size X|auto How large it becomes. A number or auto. Default: auto." in text
    assert "--pair LO HI Bounds. Each a number. Default: none." in text
    assert "--steps N [N ...] Steps. Each a whole number of at least 1. Default: 5 9." in text
    assert "--extra.NAME VALUE More. --loud Say more. common options: --config" in text
