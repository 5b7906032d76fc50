"""What `--dry-run` says beforehand is what a run then does, and saying it touches nothing."""

import asyncio
import json

import pytest

from contract.config import validate
from contract.rundir import Run
from loadgen.backends import BACKENDS
from loadgen.cli import main
from loadgen.commands.dry_run import document, first_request
from loadgen.commands.expected import per_request, stages_ahead
from loadgen.conduct import Conduct
from loadgen.config import RunConfig
from loadgen.fakes.openai import OpenAI
from loadgen.fakes.paces import Scripted
from loadgen.fakes.script import Script
from loadgen.fakes.server import Server
from loadgen.workload.build import source_of

QUICK = Script(service_seconds=0.01, slots=4)


class Hearing(OpenAI):
    """The protocol, with an ear: the body of every request for tokens."""

    def __init__(self):
        super().__init__()
        self.bodies = []

    def ask(self, call, pace):
        self.bodies.append(json.loads(call.body))
        return super().ask(call, pace)


def plan_of(config):
    source = source_of(config, 0, None)
    each = per_request(config, source)
    return document(config, each, stages_ahead(config, source, each), first_request(config, source))


async def planned_and_run(folder, **settings):
    """The plan of a configuration, the run it led to, and what its server heard."""
    front = Hearing()
    async with Server(front, Scripted(QUICK), QUICK) as server:
        common = {"metrics_port": 0, "output_dir": str(folder), "isl": 8, "osl": 4}
        backend = {"kind": "openai", "base_url": server.url}
        config = validate(RunConfig, {**common, "backend": backend, **settings})
        plan = plan_of(config)
        assert front.bodies == []
        path = await Conduct(config, BACKENDS["openai"].build(config)).run()
    return plan, Run.open(path), front.bodies


@pytest.fixture
def trace(tmp_path):
    """Twelve requests within a fifth of a second, of 3 to 14 tokens asking for 1 to 6."""
    rows = [{"at": i / 60, "input_tokens": 3 + i, "output_tokens": 1 + i % 6} for i in range(12)]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_closed_loop_by_count_sends_what_was_said(tmp_path):
    settings = {"agents": [1, 3], "request_count": 10, "warmup_requests": 2}
    plan, run, _ = asyncio.run(planned_and_run(tmp_path, **settings))
    assert [stage["requests"] for stage in plan["stages"]] == [stage.sent for stage in run.stages]
    assert [stage["rounds"] for stage in plan["stages"]] == pytest.approx([12, 1 + 2 / 3 + 10 / 3])
    assert (plan["prompt_tokens"], plan["output_tokens"]) == tokens(run)
    assert plan["seconds"] == 0


def test_a_trace_sends_what_was_said_token_by_token(tmp_path, trace):
    settings = {"trace": trace, "warmup_requests": 0}
    plan, run, _ = asyncio.run(planned_and_run(tmp_path, **settings))
    assert (plan["requests"], plan["seconds"]) == (12, pytest.approx(11 / 60))
    # Prompts of three and four words have to hold a nonce of five.
    assert (plan["prompt_tokens"], plan["output_tokens"]) == (sum(range(3, 15)) + 3, 42)
    assert tokens(run) == (plan["prompt_tokens"], plan["output_tokens"])


def test_a_dataset_is_summed(tmp_path):
    prompts = [{"prompt": "one two three"}, {"prompt": "four", "max_tokens": 10}]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    settings = {"dataset": str(path), "agents": [1], "request_count": 4, "shared_prefix": 6}
    plan, run, _ = asyncio.run(planned_and_run(tmp_path, isl=16, **settings))
    assert plan["per_request"]["prompt_tokens"] == 6 + 5 + 2
    assert plan["per_request"]["output_tokens"] == (4 + 10) / 2
    assert "2 prompts of 4 words in all" in plan["per_request"]["from"]
    assert {record.prompt_tokens for record in run.records()} <= {12, 14}


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_the_first_request_is_the_first_request(tmp_path, endpoint):
    settings = {"agents": [1], "request_count": 1, "warmup_requests": 0, "model": "tiny"}

    async def both():
        front = Hearing()
        async with Server(front, Scripted(QUICK), QUICK) as server:
            backend = {"kind": "openai", "base_url": server.url, "endpoint": endpoint}
            common = {"metrics_port": 0, "output_dir": str(tmp_path), "isl": 12}
            config = validate(RunConfig, {**common, "backend": backend, **settings})
            said = first_request(config, source_of(config, 0, None))
            await Conduct(config, BACKENDS["openai"].build(config)).run()
            return said, f"{server.url}{said['url'].removeprefix(server.url)}", front.bodies[0]

    said, url, heard = asyncio.run(both())
    assert said["url"] == url
    assert _but_the_runs_own_words(said["body"]) == _but_the_runs_own_words(heard)


def _but_the_runs_own_words(body):
    """Words four and five name the run."""
    text = body.pop("prompt", None) or body.pop("messages")[0]["content"]
    words = text.split()
    return body, words[:3], words[5:]


def tokens(run):
    records = list(run.records())
    return sum(r.prompt_tokens for r in records), sum(r.output_tokens for r in records)


WORDS = ("run", "--dry-run", "--backend", "vllm", "--base-url", "http://127.0.0.1:9")


@pytest.mark.usefixtures("_own_signals")
def test_it_asks_no_server_binds_no_port_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOADSTONE_API_KEY", "sk-very-secret")
    monkeypatch.setenv("TENANT", "blue")
    words = ["--agents", "1..4x2", "--duration", "20", "--header", "X-Tenant:$TENANT",
             "--header", "X-Pass:hush", "--metrics-port", "1", "--isl", "300"]  # fmt: skip
    assert main([*WORDS, *words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert list(tmp_path.iterdir()) == []
    assert "POST http://127.0.0.1:9/v1/completions" in said.out
    assert "Authorization: Bearer $LOADSTONE_API_KEY" in said.out
    assert "X-Tenant: $TENANT" in said.out
    for secret in ("sk-very-secret", "blue", "hush"):
        assert secret not in said.out
    assert "duration: 60 s, and besides 6 times as long as a request takes" in said.out
    assert max(map(len, said.out.splitlines())) < 400


@pytest.mark.usefixtures("_own_signals")
def test_as_json_it_is_one_document(capsys):
    assert main([*WORDS, "--request-rate", "2,4", "--duration", "30", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["requests"] for stage in plan["stages"]] == [60, 120]
    assert (plan["seconds"], plan["requests"], plan["prompt_tokens"]) == (60, 180, 180 * 256)
    assert len(plan["request"]["body"]["prompt"].split()) == 256


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize("route", ["round-robin", "least-busy"])
def test_of_several_servers_the_first_gets_the_first_request(capsys, route):
    assert main([*WORDS, "--base-url", "http://127.0.0.1:10", "--route", route, "--json"]) == 0
    url = json.loads(capsys.readouterr().out)["request"]["url"]
    assert url == "http://127.0.0.1:9/v1/completions"


@pytest.mark.usefixtures("_own_signals")
def test_a_search_says_its_first_stage_and_where_it_may_end(capsys):
    words = ["find", *WORDS[1:], "--goodput", "ttft:200", "--max", "20", "--json"]
    assert main(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["search"]["levels"] == [1, 2, 4, 8, 16, 20]
    assert plan["search"]["most_stages"] == 3 * (6 + 5)
    assert [stage["agents"] for stage in plan["stages"]] == [1]


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--agents", "4..1"], 2, "'4..1' is empty"),
        (["--dataset", "absent.jsonl"], 2, "absent.jsonl: no such file"),
        (["--base-url", "nowhere"], 2, "is not an HTTP address"),
        (["--base-url", "http://127.0.0.1:9/"], 2, "http://127.0.0.1:9 is given twice"),
        (["--header", "X:$LOADSTONE_ABSENT"], 2, "LOADSTONE_ABSENT from the environment"),
        (["--dataset", "broken.jsonl"], 4, "broken.jsonl:1"),
    ],
)
def test_a_mistake_ends_it_as_it_would_end_the_run(
    tmp_path, monkeypatch, capsys, words, code, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jsonl").write_text("{}\n")
    assert main([*WORDS, *words]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("more", [[], ["--shared-prefix", "9000000"], ["--turns", "3"]])
def test_a_prompt_nobody_reads_is_not_made_whole(capsys, more):
    words = ["run", "--backend", "vllm", "--dry-run", "--isl", "10000000", *more]
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["per_request"]["prompt_tokens"] >= 10_000_000
    assert plan["request"]["prompt_tokens_shown"] == 100_000
    assert len(plan["request"]["body"]["prompt"].split()) == 100_000
    assert main(words) == 0
    assert "first request, its prompt made of 100000 tokens alone:" in capsys.readouterr().out


def test_a_prompt_of_customary_length_is_shown_whole(capsys):
    words = ["run", "--backend", "vllm", "--dry-run", "--isl", "100000", "--json"]
    assert main(words) == 0
    request = json.loads(capsys.readouterr().out)["request"]
    assert "prompt_tokens_shown" not in request
    assert len(request["body"]["prompt"].split()) == 100_000
