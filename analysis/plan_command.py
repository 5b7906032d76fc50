"""`analysis plan`: which model, engine and quantization, and how many replicas."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from contract.commandline import integer, number, say
from contract.errors import ConfigError, SloError

if TYPE_CHECKING:
    from analysis.planner.candidates import Asked, Candidate
    from analysis.planner.catalog import Catalog
    from analysis.planner.fitted import Entry
    from analysis.planner.relax import Advice, Offers
    from analysis.planner.report import Answer
    from analysis.planner.search import Plan

TOP = 5
DEFAULT_TOKENS = 128
# Beyond these a question is a slip of the keyboard, and its answer would be no number.
MOST_TOKENS = 10_000_000
RATES = number(at_least=1e-6, at_most=1_000_000)
SLOS = number(at_least=0.001)
PRICES = number(at_least=0, at_most=1_000_000)
DESCRIPTION = """\
Search every known model, engine and quantization for the cheapest that meets the rate, the
latency SLO, the quality target and the budget. Costs are replicas x hourly price x 720 hours."""


def add_parser(subparsers: Any) -> None:
    """Add `plan` to the command line."""
    parser = subparsers.add_parser(
        "plan", help="what to run and how many replicas", description=DESCRIPTION
    )
    load = parser.add_argument_group("load")
    load.add_argument("--request-rate", type=RATES, metavar="R", help="requests/s")
    length = integer(at_least=1, at_most=MOST_TOKENS)
    load.add_argument("--output-tokens", type=length, metavar="N",
                      help="per request (default 128; own fits: as measured)")  # fmt: skip
    length = integer(at_least=0, at_most=MOST_TOKENS)
    load.add_argument("--prompt-tokens", type=length, default=1920, metavar="N",
                      help="prompt per request, for memory (default 1920)")  # fmt: skip
    goal = parser.add_argument_group("goal")
    goal.add_argument("--budget", type=number(at_least=0), metavar="USD", help="USD per month")
    goal.add_argument("--latency-slo", type=SLOS, metavar="MS", help="ms at p95")
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
    group.add_argument("--hourly-usd", type=PRICES, metavar="USD",
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
    if arguments.hourly_usd is not None and arguments.models is None:
        raise ConfigError("--hourly-usd: given without --models, whose hardware it prices")
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

    answer = _search(catalog, asked, entries)
    if arguments.json:
        shown = answer.fitting[: arguments.top] if arguments.top else answer.fitting
        print(json.dumps(report.document(answer, asked, shown), indent=1, allow_nan=False))
    if not answer.fitting:
        sys.stdout.flush()
        raise SloError(report.nothing_fits(answer))
    if not arguments.json:
        sys.stdout.write(report.text_report(answer, asked, arguments.top or TOP))
        best = answer.fitting[0]
        for each in report.warnings_of(best):
            say("warning", f"{best.candidate.name}: {each}")
        for each in answer.warnings:
            say("warning", each)
    return 0


def _search(catalog: Catalog, asked: Asked, entries: list[Entry]) -> Answer:
    from analysis.planner.candidates import catalog_candidates, left_out
    from analysis.planner.own import own_candidates
    from analysis.planner.report import Answer
    from analysis.planner.search import search

    def offers(asked: Asked) -> list[Candidate]:
        return [*catalog_candidates(catalog, asked), *own_candidates(catalog, asked, entries)]

    fitting, missing = search(offers(asked), asked)
    said = [warning for entry in entries for warning in entry.warnings]
    if asked.quality is not None:
        said.append(catalog.tables["quality_note"])
    advice = _advice(catalog, asked, missing, offers) if not fitting else None
    return Answer(fitting, missing, left_out(catalog, asked), advice, tuple(said))


def _advice(catalog: Catalog, asked: Asked, missing: list[Plan], offers: Offers) -> Advice:
    from analysis.planner.relax import Card, advise

    names = catalog.names("hardware")
    prices = ((name, catalog.price(name)) for name in names)
    cards = [Card(name, price.value) for name, price in prices if price is not None]
    return advise(missing, asked, offers, cards)


def _list(catalog: Catalog, arguments: argparse.Namespace) -> int:
    from analysis.planner.listing import table

    wanted = [
        name
        for name, flag in (("hardware", "list_hardware"), ("models", "list_models"))
        if getattr(arguments, flag)
    ]
    if arguments.json:
        print(json.dumps({name: catalog.tables[name] for name in wanted}, indent=1))
    else:
        print("\n\n".join(table(name, catalog.tables[name]) for name in wanted))
    return 0
