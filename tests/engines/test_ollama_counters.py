"""What the Ollama emulator counts beside what llama-server counts of the same requests.

Ollama runs llama-server and hands on its `timings` as its own counters. So both must count the
same tokens, begin and end their durations at the same instants, and leave the same waits out.
The emulator's times follow the law measured on llama-server just before.
"""

import json
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import pytest

from loadgen.fakes.timings import Timings

pytestmark = pytest.mark.engine
BOS, PLAIN = 0, range(300, 900)  # ids of tokens: its first, and some that are text of their own
PARTS = ("prompt_eval", "eval")


@dataclass
class Answer:
    """The end of a stream as Ollama's counters, the ids of its tokens, and when they came."""

    counters: dict[str, int]
    tokens: list
    sent: float
    stamps: list[float]

    @property
    def first(self):
        return self.stamps[0] - self.sent

    @property
    def rest(self):
        return self.stamps[-1] - self.stamps[0]

    def seconds(self, part):
        return 1e-9 * self.counters[f"{part}_duration"]


class LlamaServer:
    """llama-server, by token ids."""

    def __init__(self, url):
        self.url = url
        self.reused = []

    def cached(self):
        """How many tokens of each prompt were cached."""
        return self.reused

    def ask(self, prompt, tokens):
        body = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "return_tokens": True}
        answer, said = streamed(f"{self.url}/completion", {**body, "stream": True})
        timings = said[-1]["timings"]
        self.reused.append(timings["cache_n"])
        answer.counters = Timings(*(timings[n] for n in Timings.__slots__)).ollama_counters()
        answer.tokens = [number for piece in said[:-1] for number in piece["tokens"]]
        return answer


class Emulator:
    """The emulator of Ollama, which takes a word for a token and adds BOS itself."""

    def __init__(self, url):
        self.url = url

    def cached(self):
        """How many tokens of each prompt were cached."""
        with urllib.request.urlopen(f"{self.url}/fake/log", timeout=10) as answer:
            return [visit["cached_tokens"] for visit in json.load(answer)["requests"]]

    def ask(self, prompt, tokens):
        body = {"model": "tiny", "prompt": " ".join(map(str, prompt[1:])), "raw": True}
        options = {"num_predict": tokens, "num_ctx": 4096}
        answer, said = streamed(f"{self.url}/api/generate", {**body, "options": options})
        answer.counters = {name: v for name, v in said[-1].items() if re.search("count|dur", name)}
        answer.tokens = [piece["response"].strip() for piece in said[:-1]]
        return answer


def streamed(url, body):
    """A posted document's stream: what came of it when, and the documents."""
    sent, stamps, said = time.monotonic(), [], []
    asked = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(asked, timeout=60) as answer:
        for line in answer:
            if line.strip():
                stamps.append(time.monotonic())
                said.append(json.loads(line.removeprefix(b"data: ")))
    return Answer({}, [], sent, stamps[:-1]), said


def fresh(length, number):
    """A prompt of that many tokens that shares none but its first with that of another number."""
    return [BOS, *(PLAIN[(97 * number + 7 * i) % len(PLAIN)] for i in range(length - 1))]


def at_once(server, asks):
    with ThreadPoolExecutor(len(asks)) as pool:
        return [job.result() for job in [pool.submit(server.ask, *ask) for ask in asks]]


def measured_law(server):
    """Its seconds as the emulator's flags: t(b) = a + c b, and p + q per token of a prompt."""
    alone = [server.ask(fresh(8, n), 32) for n in range(3)]
    four = at_once(server, [(fresh(8, n), 48) for n in range(10, 14)])
    one, many = (median(a.seconds("eval") / (a.counters["eval_count"] - 1) for a in answers)
                 for answers in (alone, four))  # fmt: skip
    c = min(one, max(0.0, (many - one) / 3))
    short, long = (
        median(server.ask(fresh(length, n), 1).seconds("prompt_eval") for n in range(20, 23))
        for length in (8, 72)
    )
    q = max(0.0, (long - short) / 64)
    law = {"step": one - c, "sequence": c, "prefill": max(0.0, short - 8 * q - one)}
    print(f"t(1) {1e3 * one:.2f} ms, t(4) {1e3 * many:.2f} ms; 8 tokens of prompt "
          f"{1e3 * short:.1f} ms, 72 {1e3 * long:.1f} ms")  # fmt: skip
    return {**law, "prefill-token": q}


@pytest.fixture(scope="module")
def law(start_llama_server):
    """llama-server's own times, as flags of the emulator."""
    with start_llama_server("small", "-np", 4) as engine:
        found = measured_law(LlamaServer(engine.url))
    return [word for name, value in found.items() for word in (f"--{name}-seconds", value)]


@pytest.fixture
def both(llama_server, start, law):
    """`both(slots)`: llama-server, and the emulator that follows its times."""

    def both(slots):
        real = LlamaServer(llama_server("small", "-np", slots).url)
        process = start("loadgen", "serve-fake", "--protocol", "ollama", "--slots", slots, *law)
        return real, Emulator(re.search(r"http://[\d.:]+", process.stdout.readline())[0])

    return both


def test_counts_are_the_same_whatever_was_cached(both):
    for server in both(1):
        first = server.ask(fresh(40, 0), 6)
        again = server.ask(fresh(40, 0), 6)
        gone_on = server.ask([*fresh(40, 0), *again.tokens, *fresh(8, 1)[1:]], 3)
        half = server.ask([*fresh(40, 0)[:20], *fresh(21, 2)[1:]], 3)
        other = server.ask(fresh(40, 3), 1)
        answers = (first, again, gone_on, half, other)
        counts = [(a.counters["prompt_eval_count"], a.counters["eval_count"]) for a in answers]
        assert counts == [(40, 6), (40, 6), (53, 3), (40, 3), (40, 1)]
        # What was cached is counted and takes no time: the last token of a prompt is always
        # evaluated, the last one of an answer was not.
        assert server.cached() == [0, 39, 45, 20, 1]
        assert again.seconds("prompt_eval") < 0.5 * first.seconds("prompt_eval")


def test_the_first_token_belongs_to_the_prompt(both):
    for server in both(1):
        for tokens in (1, 33):
            answers = [server.ask(fresh(24, 10 * tokens + n), tokens) for n in range(5)]
            prompt, decode = (median(a.seconds(part) for a in answers) for part in PARTS)
            first, rest = (median(getattr(a, n) for a in answers) for n in ("first", "rest"))
            shown = [f"{1e3 * seconds:.2f}" for seconds in (first, prompt, rest, decode)]
            print(type(server).__name__, tokens, "tokens: first, prompt_eval, rest, eval:", *shown)
            assert -0.001 <= first - prompt <= max(0.020, 0.2 * prompt)
            assert decode == pytest.approx(rest, abs=0.010, rel=0.1)
        # One token takes no step of its own, and its duration is there all the same.
        assert 0 < server.ask(fresh(24, 400), 1).seconds("eval") < 0.0005


def test_the_times_are_those_of_one_law(both):
    real, emulated = (
        [
            median(server.ask(fresh(length, length + n), tokens).seconds(part) for n in range(3))
            for part, length, tokens in (("prompt_eval", 40, 1), ("eval", 8, 33))
        ]
        + [max(a.seconds("eval") for a in at_once(server, [(fresh(8, n), 48) for n in (90, 91)]))]
        for server in both(2)
    )
    print("prompt of 40, 32 steps, 47 steps of two: llama-server, emulator",
          [f"{1e3 * s:.0f}" for s in real], [f"{1e3 * s:.0f}" for s in emulated])  # fmt: skip
    for measured, followed in zip(real, emulated, strict=True):
        assert 1 / 3 < followed / measured < 3


def test_waiting_for_a_slot_is_in_the_total_alone(both):
    for server in both(1):
        asks = [(fresh(24, n), 48) for n in (60, 61)]
        answers = sorted(at_once(server, asks), key=lambda a: a.stamps[-1])
        parts = [sum(a.seconds(part) for part in PARTS) for a in answers]
        beyond = [a.stamps[-1] - a.sent - own for a, own in zip(answers, parts, strict=True)]
        print(type(server).__name__, [f"{1e3 * s:.0f}" for s in (*parts, *beyond)])
        assert beyond[1] > 0.7 * parts[0] > 5 * beyond[0]
        for answer, own, waited in zip(answers, parts, beyond, strict=True):
            # llama-server has no total; Ollama's, and its load, stand beside these parts.
            total = 1e-9 * answer.counters.get("total_duration", 1e9 * (own + waited))
            loading = 1e-9 * answer.counters.get("load_duration", 0)
            assert own + loading <= total <= own + waited + 0.001
            assert loading < 0.02
