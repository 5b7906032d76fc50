"""The manners the three commands share: one error line, fixed exit codes, no abbreviations.

Standard library only, because every `--help` and `analysis plan` pass through here.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from contract.errors import ConfigError, LabError, nearest

VERSION = "0.1.0"

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations whose every complaint is a ConfigError."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        for action in self._actions:
            flag = "/".join(action.option_strings)
            if flag and message.startswith(f"argument {flag}: invalid choice: "):
                message += nearest(message.split("'")[1], [str(c) for c in action.choices or ()])
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            message += nearest(word, _options(self))
        raise ConfigError(message)


def number(
    *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> Callable[[str], float]:
    """An argparse type: a finite number within the bounds; NaN and infinity are refused."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
        bounds = [
            (above is None or value > above, f"above {above}"),
            (at_least is None or value >= at_least, f"at least {at_least}"),
            (at_most is None or value <= at_most, f"at most {at_most}"),
        ]
        wanted = " and ".join(
            text
            for (_, text), bound in zip(bounds, (above, at_least, at_most), strict=True)
            if bound is not None
        )
        if not math.isfinite(value) or not all(ok for ok, _ in bounds):
            raise argparse.ArgumentTypeError(f"'{text}' is not a finite number {wanted}".rstrip())
        return value

    return parse


def integer(*, at_least: int, at_most: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number within the bounds, in plain decimal digits."""

    def parse(text: str) -> int:
        upper = f" and at most {at_most}" if at_most is not None else ""
        allowed = f"a whole number of at least {at_least}{upper}"
        if not text.strip().lstrip("-").isascii() or not text.strip().lstrip("-").isdigit():
            raise argparse.ArgumentTypeError(f"'{text}' is not {allowed}")
        value = int(text)
        if value < at_least or (at_most is not None and value > at_most):
            raise argparse.ArgumentTypeError(f"'{text}' is not {allowed}")
        return value

    return parse


class Interrupted(BaseException):
    """SIGINT or SIGTERM reached a command that does not drain; carries the exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def _on_sigterm(_signum: int, _frame: object) -> None:
    raise Interrupted(128 + signal.SIGTERM)


def say(kind: str, text: str, stream: TextIO | None = None) -> None:
    """Print one `error:` or `warning:` line to stderr, whatever newlines `text` holds."""
    print(f"{kind}: {' '.join(str(text).split())}", file=stream or sys.stderr)


def run(parser: Parser, argv: Sequence[str] | None = None) -> int:
    """Parse and run one command; returns the exit code of the table in docs/exit_codes.md.

    The chosen subparser stores its function as `command`. A closed pipe on stdout ends
    quietly, as for any Unix filter.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        arguments = parser.parse_args(argv)
        command: Command | None = getattr(arguments, "command", None)
        if command is None:
            names = ", ".join(_subcommands(parser))
            raise ConfigError(f"no command given, allowed: {names}")
        code = command(arguments)
        sys.stdout.flush()
        return code
    except LabError as error:
        say("error", str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Interrupted as interrupted:
        return interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _options(parser: argparse.ArgumentParser) -> list[str]:
    found = [option for action in parser._actions for option in action.option_strings]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [option for sub in action.choices.values() for option in _options(sub)]
    return sorted(set(found))


def _subcommands(parser: argparse.ArgumentParser) -> list[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return list(action.choices)
    return []
