"""`analysis plan`: which model, engine and quantization, and how many replicas."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from contract.commandline import integer, number, say
from contract.errors import ConfigError, SloError

if TYPE_CHECKING:
    from analysis.planner.candidates import Asked
    from analysis.planner.catalog import Catalog
    from analysis.planner.fitted import Entry

TOP = 5
DEFAULT_TOKENS = 128
DESCRIPTION = """\
Search every known model, engine and quantization for the cheapest that meets the rate, the
latency SLO, the quality target and the budget. Costs are replicas x hourly price x 720 hours."""


def add_parser(subparsers: Any) -> None:
    """Add `plan` to the command line."""
    parser = subparsers.add_parser(
        "plan", help="what to run and how many replicas", description=DESCRIPTION
    )
    load = parser.add_argument_group("load")
    load.add_argument("--request-rate", type=number(above=0), metavar="R", help="requests/s")
    load.add_argument("--output-tokens", type=integer(at_least=1), metavar="N",
                      help="per request (default 128; own fits: as measured)")  # fmt: skip
    load.add_argument("--prompt-tokens", type=integer(at_least=0), default=1920, metavar="N",
                      help="prompt per request, for memory (default 1920)")  # fmt: skip
    goal = parser.add_argument_group("goal")
    goal.add_argument("--budget", type=number(at_least=0), metavar="USD", help="USD per month")
    goal.add_argument("--latency-slo", type=number(above=0), metavar="MS", help="ms at p95")
    goal.add_argument("--quality-target", type=number(at_least=0, at_most=1), metavar="Q")
    _add_choices(parser.add_argument_group("choices"))
    output = parser.add_argument_group("output")
    output.add_argument("--list-hardware", action="store_true", help="known GPUs, then stop")
    output.add_argument("--list-models", action="store_true", help="known models, then stop")
    output.add_argument("--json", action="store_true", help="JSON on stdout and nothing else")
    output.add_argument("--top", type=integer(at_least=1), metavar="N",
                        help="how many to show (default 5; all with --json)")  # fmt: skip
    parser.set_defaults(command=run)


def _add_choices(group: Any) -> None:
    group.add_argument("--model-size", metavar="SIZE", help="such as 3b; all sizes when left out")
    group.add_argument("--hardware", metavar="NAME", help="default: the reference GPU")
    group.add_argument("--backend", metavar="A[,B]", help="only these engines")
    group.add_argument("--quantization", metavar="A[,B]", help="only these weights")
    group.add_argument("--models", metavar="FILE", help="own fits: fitted_models.json")
    group.add_argument("--hourly-usd", type=number(at_least=0), metavar="USD",
                       help="price of the hardware in --models")  # fmt: skip
    group.add_argument("--include-disputed", action="store_true",
                       help="also use values the sources' audit disputes")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Answer; SloError (exit 6) when nothing fits, with the JSON still on stdout."""
    from analysis.planner.catalog import load_catalog

    catalog = load_catalog()
    if arguments.list_hardware or arguments.list_models:
        return _list(catalog, arguments)
    if arguments.request_rate is None:
        raise ConfigError("--request-rate: nothing given, allowed: a number above 0")
    entries = _entries(arguments.models)
    asked = _asked(catalog, arguments, entries)
    return _answer(catalog, asked, entries, arguments)


def _entries(path: str | None) -> list[Entry]:
    from analysis.planner.fitted import read_fitted

    return [] if path is None else read_fitted(path)


def _asked(catalog: Catalog, arguments: argparse.Namespace, entries: list[Entry]) -> Asked:
    from analysis.planner.candidates import Asked
    from analysis.planner.catalog import chosen

    own_backends = [entry.key[1] for entry in entries]
    own_quantizations = [entry.key[3] for entry in entries]
    backends = list(dict.fromkeys([*catalog.names("engines"), *own_backends]))
    quantizations = list(dict.fromkeys([*catalog.names("quantizations"), *own_quantizations]))
    slo = arguments.latency_slo
    return Asked(
        rate=arguments.request_rate,
        hardware=chosen(
            "--hardware", arguments.hardware or catalog.reference, catalog.names("hardware")
        ),
        size=arguments.model_size and chosen("--model-size", arguments.model_size, catalog.sizes()),
        budget=arguments.budget,
        slo=None if slo is None else slo / 1000.0,
        quality=arguments.quality_target,
        output_tokens=arguments.output_tokens or DEFAULT_TOKENS,
        tokens_given=arguments.output_tokens is not None,
        prompt_tokens=arguments.prompt_tokens,
        backends=_several("--backend", arguments.backend, backends),
        quantizations=_several("--quantization", arguments.quantization, quantizations),
        hourly=arguments.hourly_usd,
        include_disputed=arguments.include_disputed,
    )


def _several(flag: str, given: str | None, known: list[str]) -> tuple[str, ...]:
    from analysis.planner.catalog import chosen

    return () if given is None else tuple(chosen(flag, each, known) for each in given.split(","))


def _answer(
    catalog: Catalog, asked: Asked, entries: list[Entry], arguments: argparse.Namespace
) -> int:
    from analysis.planner import report
    from analysis.planner.candidates import catalog_candidates, left_out
    from analysis.planner.own import own_candidates
    from analysis.planner.search import search

    candidates = [
        *catalog_candidates(catalog, asked),
        *own_candidates(catalog, asked, entries),
    ]
    fitting, missing = search(candidates, asked)
    disputed = left_out(catalog, asked)
    if arguments.json:
        shown = fitting[: arguments.top] if arguments.top else fitting
        print(json.dumps(report.document(shown, missing, disputed, asked), indent=1))
    if not fitting:
        sys.stdout.flush()
        raise SloError(report.nothing_fits(missing, disputed, asked))
    if not arguments.json:
        top = arguments.top or TOP
        sys.stdout.write(report.text_report(fitting, missing, disputed, asked, top))
        for each in report.warnings_of(fitting[0]):
            say("warning", f"{fitting[0].candidate.name}: {each}")
        if asked.quality is not None:
            say("warning", catalog.tables["quality_note"])
    return 0


def _list(catalog: Catalog, arguments: argparse.Namespace) -> int:
    wanted = [
        table
        for table, flag in (("hardware", "list_hardware"), ("models", "list_models"))
        if getattr(arguments, flag)
    ]
    if arguments.json:
        print(json.dumps({table: catalog.tables[table] for table in wanted}, indent=1))
        return 0
    for table in wanted:
        for name, row in catalog.tables[table].items():
            print(f"{name:<18}{_facts(row)}")
    return 0


def _facts(row: dict[str, Any]) -> str:
    """The values of a row in words: `12 GiB`, …; a dispute is said beside its value."""
    facts = [str(row["size"])] if "size" in row else []
    for name, fact in row.items():
        if isinstance(fact, dict):
            dispute = f" (disputed: {fact['disputed']})" if "disputed" in fact else ""
            facts.append(f"{name} {fact['value']:g} {fact['unit']} [{fact['source']}]{dispute}")
    return "; ".join(facts)
