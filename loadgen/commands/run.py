"""`loadgen run`: flags and YAML merged once, one run driven, its table printed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.commandline import Parser
from contract.errors import ConfigError, nearest
from loadgen.commands import conduct_flags, door, flags
from loadgen.quiet import loading

if TYPE_CHECKING:
    from loadgen.conduct import Conduct
    from loadgen.config import RunConfig
    from loadgen.stages import Course


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """The `run` subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="put a load on a backend, one stage per level, and write a run directory",
        description="Drive N independent agents, one stage per level of N, or requests at a rate, "
        "and write a run directory. Without arguments: a small local model in process, agents "
        "1,2,4,8.",
    )
    parser.set_defaults(command=command)
    parser.add_argument(
        "--config", metavar="FILE", help="YAML with the same settings; flags win over it"
    )
    flags.add_target_flags(parser)
    flags.add_level_flags(parser)
    flags.add_load_flags(parser)
    flags.add_prompt_flags(parser)
    flags.add_body_flags(parser)
    flags.add_window_flags(parser)
    flags.add_stop_flags(parser)
    flags.add_output_flags(parser)
    conduct_flags.add_shards_flag(parser)
    conduct_flags.add_wait_flag(parser)
    conduct_flags.add_reset_flag(parser)
    conduct_flags.add_dry_run_flag(parser)


def resolve(arguments: argparse.Namespace) -> RunConfig:
    """YAML and flags merged as plain dicts, validated once."""
    from contract.config import validate
    from loadgen.config import RunConfig

    file = getattr(arguments, "config", None)
    document = _document(file)
    _name_backend(arguments.backend, document, file)
    given = {flag for flag in ("duration", "request_count") if getattr(arguments, flag, None)}
    if len(given) == 1:  # a stop given as a flag replaces the other kind of stop in the file
        document.pop("request_count" if "duration" in given else "duration", None)
    for name in (*flags.PLAIN, *flags.ONLY_FOR):
        value = getattr(arguments, name, None)
        if value is not None:
            _put(document, name, _read(name, value))
    return validate(RunConfig, document, where=file or "")


def _document(file: str | None) -> dict[str, Any]:
    """What a file says; nothing where there is none."""
    if not file:
        return {}
    from contract.yaml_file import load_yaml

    return load_yaml(Path(file))


def _name_backend(given: str | None, document: dict[str, Any], file: str | None) -> None:
    from loadgen.backends import BACKENDS

    where = f"{file}: backend" if file and given is None else "--backend"
    backend = document.setdefault("backend", {})
    if isinstance(backend, str):
        backend = document["backend"] = {"kind": backend}
    if not isinstance(backend, dict):
        raise ConfigError(f"{where}: a mapping or a name is wanted, given {backend!r}")
    if given is not None:
        if backend.get("kind", given) != given:
            document["backend"] = backend = {}
        backend["kind"] = given
    kind = str(backend.setdefault("kind", "hf"))
    if kind not in BACKENDS:
        raise ConfigError(
            f"{where}: '{kind}' is unknown, allowed: {', '.join(BACKENDS)}{nearest(kind, BACKENDS)}"
        )


def _read(name: str, value: Any) -> Any:
    """A flag that may be given several times, as the configuration holds it."""
    if name == "headers":
        pairs = [part.partition(":") for part in value]
        wrong = [header for header, colon, _ in pairs if not colon]
        if wrong:
            raise ConfigError(f"--header: '{wrong[0]}' has no colon, allowed: NAME:VALUE")
        return {header.strip(): text.strip() for header, _, text in pairs}
    if name == "extra_body":
        return _json(value)
    return " ".join(value) if name == "goodput" else value


def _json(text: str) -> Any:
    """What `--extra-body` holds."""
    import orjson

    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"--extra-body: '{text}' is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise ConfigError(f"--extra-body: '{text}' given, allowed: an object {{…}}")
    return document


def _put(document: dict[str, Any], name: str, value: Any) -> None:
    """Set one flag's value, where it belongs."""
    if name not in flags.ONLY_FOR:
        document[name] = value
        return
    kind, allowed = document["backend"]["kind"], flags.ONLY_FOR[name]
    if kind not in allowed:
        raise ConfigError(
            f"--{name.replace('_', '-')}: not for backend '{kind}', only for {', '.join(allowed)}"
        )
    document["backend"][name] = value


def command(arguments: argparse.Namespace) -> int:
    """Run, print, and say how it ended: 0, or 128 + the signal."""
    config = _admitted(arguments)
    if arguments.dry_run:
        from loadgen.commands.dry_run import show

        return show(config, as_json=arguments.json)
    conduct = conduct_of(config)
    from loadgen.commands.console import said

    try:
        drive(conduct)
    finally:
        try:
            if conduct.summaries:
                print(_result(conduct, as_json=arguments.json), flush=True)
        finally:
            if conduct.path is not None:
                said(f"run directory: {conduct.path}")
    return 0 if conduct.interrupted is None else 128 + conduct.interrupted


def _result(conduct: Conduct, *, as_json: bool) -> str:
    from loadgen.figures.summary import run_summary, table

    if not as_json:
        return table(conduct.summaries)
    summary = run_summary(conduct.manifest, conduct.summaries)
    return json.dumps({**summary, "path": str(conduct.path)})


@loading()
def _admitted(arguments: argparse.Namespace) -> RunConfig:
    """The configuration, where nothing speaks against a run."""
    config = resolve(arguments)
    door.files_there(config)
    door.folder_writable(config)
    if config.open:
        door.connections_fit(config, "--max-concurrency", config.max_concurrency)
    else:
        door.connections_fit(config, "--agents", max(config.agents))
    return config


@loading()
def conduct_of(config: RunConfig, course: Course | None = None) -> Conduct:
    """A run that has not begun."""
    from loadgen.backends import BACKENDS
    from loadgen.commands.console import said
    from loadgen.conduct import Conduct

    backend = BACKENDS[config.backend.kind].build(config)
    return Conduct(config, backend, said, course=course)


def drive(conduct: Conduct) -> None:
    """One run to its end in an event loop of its own, with the status line beside it."""
    import asyncio

    from loadgen.commands.console import watch
    from loadgen.event_loop import runner

    async def main() -> None:
        drawing = asyncio.create_task(watch(conduct))
        try:
            await conduct.run()
        finally:
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)

    with runner() as loop:
        loop.run(main())
