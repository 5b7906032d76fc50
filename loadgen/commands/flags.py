"""The flags of `loadgen run`, and where each goes in the configuration.

Flags and YAML keys carry the same names. Notations are checked by the configuration, numbers
at the door as well.
"""

from __future__ import annotations

import argparse

from contract.commandline import integer, number

SERVERS = ("openai", "vllm", "ollama", "tgi", "llama-server")
# Flags that stand in the configuration under their own name.
PLAIN = (
    "model", "hardware", "agents", "isl", "osl", "dataset", "dataset_type", "shared_prefix",
    "prefix_groups",
    "turns", "arrival", "request_rate", "rate_stages", "burstiness", "max_concurrency", "trace",
    "trace_type", "trace_time_unit", "trace_speed", "think", "duration", "request_count",
    "warmup_requests", "warmup_duration", "most_errors", "goodput", "repeats", "shards", "timeout",
    "grace_period", "seed", "reset_cache", "percentiles", "output_dir", "save_text", "metrics_port",
    "metrics_address", "metrics_linger",
)  # fmt: skip
# Flags of the backend's own settings -> the backends that have them.
ONLY_FOR = {
    "base_url": SERVERS,
    "route": SERVERS,
    "client": SERVERS,
    "stamps": SERVERS,
    "headers": SERVERS,
    "wait_ready": SERVERS,
    "endpoint": SERVERS,
    "device": ("hf",),
    "threads": ("hf",),
    "keep_alive": ("ollama",),
    "num_ctx": ("ollama",),
    "cache_prompt": ("llama-server",),
    "streaming": SERVERS,
    "ignore_eos": ("vllm", "llama-server"),
    "temperature": SERVERS,
    "top_p": SERVERS,
    "top_k": ("vllm", "ollama", "tgi", "llama-server"),
    "min_p": ("vllm", "ollama", "llama-server"),
    "presence_penalty": SERVERS,
    "frequency_penalty": SERVERS,
    "repetition_penalty": ("vllm", "ollama", "tgi", "llama-server"),
    "extra_body": SERVERS,
}
ENDPOINTS = ("completions", "chat", "generate", "native")
DAY = 86_400


def add_target_flags(parser: argparse.ArgumentParser) -> None:
    """What is driven: shared by `run` and `check`."""
    flag = parser.add_argument_group("target").add_argument
    flag("--backend", metavar="NAME", help=f"hf (default), {', '.join(SERVERS)}")
    flag("--base-url", "--url", action="append", dest="base_url", metavar="URL",
         help="where the server listens (default: the backend's customary address); given again, "
         "or U1,U2: several share the load")  # fmt: skip
    flag(
        "--route",
        choices=("round-robin", "least-busy"),
        help="several servers: in turn (default), or where fewest of our requests are in flight",
    )
    flag("--model", metavar="NAME", help="model name or local folder (default: the only one there)")
    flag("--hardware", metavar="NAME", help="what the server runs on (default: this machine's GPU "
         "or processor; unknown for a server elsewhere)")  # fmt: skip
    flag("--endpoint", choices=ENDPOINTS,
         help="openai, vllm: completions (default), chat; ollama, tgi: generate (default), chat; "
              "llama-server: native (default), completions, chat")  # fmt: skip
    flag("--header", action="append", dest="headers", metavar="NAME:VALUE",
         help="servers: one more header; $VARIABLE comes from the environment")  # fmt: skip
    flag("--client", choices=("wire", "general", "aiohttp"),
         help="servers: our HTTP client, ours without its lane, or the stock one")  # fmt: skip
    flag("--stamps", choices=("kernel", "user"), help="servers: who stamps arrivals, where it can")
    flag("--device", choices=("auto", "cpu", "cuda"), help="hf: where the model runs")
    flag("--threads", type=integer(at_least=1, at_most=1024), help="hf: CPU threads (default 1)")
    flag("--keep-alive", metavar="T",
         help="ollama: how long a model stays in memory: seconds, 10m, -1 for ever")  # fmt: skip
    flag("--num-ctx", type=integer(at_least=4), metavar="N", help="ollama: context in tokens")
    flag("--cache-prompt", action="store_true", default=None,
         help="llama-server: let a slot reuse the prompt it held (default: not)")  # fmt: skip
    flag("--timeout", type=number(above=0, at_most=DAY), metavar="S",
         help="give up a request after S seconds (default 120)")  # fmt: skip


def add_level_flags(parser: argparse.ArgumentParser) -> None:
    """The stages of a run."""
    flag = parser.add_argument_group("stages").add_argument
    flag("--agents", "--concurrency", dest="agents", metavar="N",
         help="closed loop: 1..16 each, 1..16x2 doubling, 1..16+3, or 1,2,4")  # fmt: skip
    flag("--request-rate", metavar="R", help="open loop: requests/s; each of 1,2,4 or 1..16x2 is "
         "a stage")  # fmt: skip
    flag("--rate-stages", metavar="R:S", help="open loop: 5:60,5..20:120 holds 5/s for 60 s, then "
         "ramps to 20/s in 120 s")  # fmt: skip
    flag("--trace", metavar="FILE", help="open loop: replay a trace's instants and lengths")
    flag("--trace-type", choices=("azure", "mooncake", "burstgpt", "jsonl"),
         help="format of the trace (default: by its columns)")  # fmt: skip
    flag("--trace-time-unit", choices=("s", "ms", "us", "ns"), help="unit of its timestamps")
    flag("--trace-speed", type=number(above=0), metavar="X", help="replay X times as fast")


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    """How requests come about, whatever the level."""
    flag = parser.add_argument_group("load").add_argument
    flag("--think", metavar="S", help="closed loop: seconds before each request, 2 or 1..5 or "
         "exponential(2) or lognormal(2,0.5)")  # fmt: skip
    flag("--arrival", "--arrival-pattern", dest="arrival",
         choices=("closed", "constant", "poisson", "gamma"),
         help="how arrivals come (default closed; poisson with a rate)")  # fmt: skip
    flag("--burstiness", type=number(above=0, at_most=1000), metavar="K",
         help="gamma: shape; below 1 bursty, 1 is Poisson, above 1 smooth")  # fmt: skip
    flag("--max-concurrency", type=integer(at_least=1), metavar="N",
         help="open loop: at most N in flight; the wait for a place counts")  # fmt: skip


def add_prompt_flags(parser: argparse.ArgumentParser) -> None:
    """What requests ask for."""
    flag = parser.add_argument_group("prompts").add_argument
    flag("--isl", metavar="N", help="prompt tokens: 256, 64..512, normal(256,64), "
         "lognormal(256,0.5)")  # fmt: skip
    flag("--osl", metavar="N", help="generated tokens, in the same notations")
    flag("--dataset", "--input-file", dest="dataset", metavar="FILE",
         help="prompts from ShareGPT JSON, JSONL or a text file")  # fmt: skip
    flag("--dataset-type", choices=("sharegpt", "jsonl", "text"), help="default: by its suffix")
    flag("--shared-prefix", type=integer(at_least=0), metavar="N",
         help="the first N tokens of all prompts are the same")  # fmt: skip
    flag("--prefix-groups", type=integer(at_least=1), metavar="N", help="… within N groups")
    flag("--turns", metavar="N", help="conversations of N turns, each sending all that was said")
    flag("--seed", type=integer(at_least=0, at_most=2**31 - 1), metavar="N", help="default 0")


def add_body_flags(parser: argparse.ArgumentParser) -> None:
    """What else stands in every request to a server."""
    flag = parser.add_argument_group("request").add_argument
    either = argparse.BooleanOptionalAction
    flag("--streaming", action=either, default=None,
         help="answers in a stream (default), or whole: no TTFT, no gaps")  # fmt: skip
    flag("--ignore-eos", action=either, default=None,
         help="vllm, llama-server: exactly --osl tokens, past the end token (default)")  # fmt: skip
    flag("--temperature", type=number(at_least=0, at_most=100), metavar="T",
         help="default 0: greedy")  # fmt: skip
    flag("--top-p", type=number(above=0, at_most=1), metavar="P", help="wants a temperature")
    flag("--top-k", type=integer(at_least=1), metavar="K", help="wants a temperature; not openai")
    flag("--min-p", type=number(at_least=0, at_most=1), metavar="P",
         help="wants a temperature; not openai, tgi")  # fmt: skip
    penalty = number(at_least=-2, at_most=2)
    flag("--presence-penalty", type=penalty, metavar="X", help="-2 to 2")
    flag("--frequency-penalty", type=penalty, metavar="X", help="-2 to 2")
    flag("--repetition-penalty", type=number(above=0, at_most=10), metavar="X",
         help="1 changes nothing; not openai")  # fmt: skip
    flag("--extra-body", metavar="JSON",
         help="an object merged into every request last, in the server's own words")  # fmt: skip


def add_window_flags(parser: argparse.ArgumentParser) -> None:
    """When a stage is measured, and when it ends."""
    flag = parser.add_argument_group("window").add_argument
    flag("--duration", type=number(above=0, at_most=DAY), metavar="S",
         help="seconds of each measured window (default hf 5, servers 30)")  # fmt: skip
    flag("--request-count", "--num-prompts", dest="request_count", type=integer(at_least=1),
         metavar="N", help="close each window after N requests instead")  # fmt: skip
    flag("--warmup-requests", type=integer(at_least=0), metavar="N",
         help="completions before the window opens (default: one per agent)")  # fmt: skip
    flag("--warmup-duration", type=number(at_least=0, at_most=DAY), metavar="S",
         help="seconds before the window opens (default 0)")  # fmt: skip
    flag("--grace-period", type=number(at_least=0, at_most=DAY), metavar="S",
         help="let requests in flight end for S seconds after the window (default 30)")  # fmt: skip


def add_stop_flags(parser: argparse.ArgumentParser) -> None:
    """What else a run of several stages may be asked."""
    flag = parser.add_argument_group("limits").add_argument
    flag("--most-errors", type=number(above=0, at_most=1), metavar="SHARE",
         help="end a stage early once more than this share of its requests failed")  # fmt: skip
    flag("--goodput", nargs="+", metavar="LIMIT",
         help="objectives in ms: ttft:200 tpot:50 itl:50 e2el:5000")  # fmt: skip
    flag(
        "--repeats", type=integer(at_least=1, at_most=1000), metavar="N", help="all stages, N times"
    )


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Where results go."""
    flag = parser.add_argument_group("output").add_argument
    flag("--output-dir", metavar="DIR", help="where run directories go (default runs)")
    flag("--save-text", action="store_true", default=None,
         help="keep prompts and replies, in replies.jsonl (default: not)")  # fmt: skip
    flag("--percentiles", metavar="P,P", help="of the summary, up to 10 (default 50,95,99)")
    flag("--metrics-port", type=integer(at_least=0, at_most=65_535), metavar="PORT",
         help="/metrics on this port (default 9210, 0 any free one)")  # fmt: skip
    flag("--metrics-address", metavar="ADDR", help="/metrics listens here (default 127.0.0.1)")
    flag("--metrics-linger", type=number(at_least=0, at_most=3600), metavar="S",
         help="wait up to S seconds for two last scrapes, if scraped (default 15)")  # fmt: skip
    flag("--json", action="store_true", help="print the summary as JSON instead of the table")
