"""The manners the three commands share: one error line, fixed exit codes, no abbreviations.

Standard library only, because every `--help` and `analysis plan` pass through here.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from contract.errors import ConfigError, DataError, LabError, nearest
from contract.words import one_line

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
            message += _meant(word, _options(self))
        raise ConfigError(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does, but for hiding that it could not."""
        (file or sys.stderr).write(message)


def number(
    *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> Callable[[str], float]:
    """An argparse type: a finite number within the bounds; NaN and infinity are refused."""

    def parse(text: str) -> float:
        try:
            value = float(text) if text.isascii() and "_" not in text else None
        except ValueError:
            value = None
        if value is None:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number")
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


# A full disk behind stdout, one that was closed, a pipe that nobody reads any more.
UNPRINTABLE = (errno.ENOSPC, errno.EBADF, errno.EPIPE)


class Interrupted(BaseException):
    """A signal reached a command that does not drain; carries the exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def _on_signal(number: int, _frame: object) -> None:
    raise Interrupted(128 + number)


def say(kind: str, text: str, stream: TextIO | None = None) -> None:
    """Print one `error:` or `warning:` line to stderr, whatever newlines and other signs that are
    not to be printed `text` holds."""
    print(f"{kind}: {one_line(text)}", file=stream or sys.stderr)


def run(build: Callable[[], Parser], argv: Sequence[str] | None = None) -> int:
    """Parse by what `build` makes and run one command; returns the exit code of the table in
    docs/exit_codes.md.

    The chosen subparser stores its function as `command`. A pipe on stdout that nobody reads any
    more ends quietly, as for any Unix filter; a full disk behind it, or a stdout that was closed
    before (`>&-`), is exit 4, unless the command ends with an error of its own.
    """
    _stand_in_for_closed_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    try:
        code = _command(build(), argv)
        sys.stdout.flush()
        return code
    except LabError as error:
        say("error", str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Interrupted as interrupted:
        return interrupted.exit_code
    except OSError as error:
        if error.filename is not None or error.errno not in UNPRINTABLE:
            raise
        return _unprinted(error)


def _unprinted(error: OSError) -> int:
    """The exit code where stdout took no more. What a command failed of, and said what it had
    measured all the same, comes first."""
    _forget_stdout()
    if isinstance(error.__context__, LabError):
        ended = error.__context__
    elif error.errno == errno.EPIPE:
        return 0
    else:
        why = "it is closed" if error.errno == errno.EBADF else error.strerror
        ended = DataError(f"standard output: the result cannot be printed ({why})")
    say("error", str(ended))
    return ended.exit_code


def _command(parser: Parser, argv: Sequence[str] | None) -> int:
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as printed:  # --help, --version
        return int(printed.code or 0)
    command: Command | None = getattr(arguments, "command", None)
    if command is None:
        raise ConfigError(f"no command given, allowed: {', '.join(_subcommands(parser))}")
    for name, value in vars(arguments).items():
        if value == "" or (isinstance(value, list) and "" in value):
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag}: an empty text is given, say what is meant or leave it out"
            )
    return command(arguments)


def _stand_in_for_closed_streams() -> None:
    """A closed stdout or stderr (`>&-`) becomes the null device: what is opened later must not
    land on its number, and a sign the terminal cannot show must not end a command. What stdout
    is told cannot be told, so that its stand-in refuses it."""
    for name, descriptor, mode in (("stdout", 1, os.O_RDONLY), ("stderr", 2, os.O_WRONLY)):
        stream = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, mode)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            setattr(sys, name, os.fdopen(descriptor, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _forget_stdout() -> None:
    """What is still buffered for it goes nowhere: the interpreter flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _meant(word: str, options: list[str]) -> str:
    """The option that begins so, since none may be abbreviated, else the nearest one."""
    longer = [option for option in options if option.startswith(word) and option != word]
    if len(longer) == 1:
        return f", did you mean '{longer[0]}'?"
    return nearest(word, [option for option in options if option != word], cutoff=0.7)


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
