"""Every mistake ends with one `error:` line, its exit code, and what to do."""

import ctypes
import json
import socket

import pytest

from contract.rundir import Run, find_run

LONG = 300 * "a"  # more than a file system takes for a name
FAST = ("--model", "tiny-gpt2", "--isl", "8", "--osl", "4", "--metrics-port", "0")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--backend", "vlm"], "did you mean 'vllm'"),
        (["--agents", "4..1"], "'4..1' is empty"),
        (["--agents", "0"], "'0' leaves 1.."),
        (["--agents", "1..x"], "'1..x' is not understood"),
        (["--duration", "nan"], "--duration"),
        (["--duration", "-3"], "--duration"),
        (["--duration", "inf"], "--duration"),
        (["--timeout", "nan"], "--timeout"),
        (["--request-count", "0"], "--request-count"),
        (["--request-count", "5", "--duration", "2"], "exclude each other"),
        (["--isl", "2"], "isl"),
        (["--seed", "-1"], "--seed"),
        (["--metrics-port", "65536"], "--metrics-port"),
        (["--agnets", "4"], "did you mean '--agents'"),
        (["--agent", "4"], "--agent"),
        (["--base-url", "http://127.0.0.1:1"], "only for openai, vllm"),
        (["--backend", "vllm", "--num-ctx", "512"], "--num-ctx: not for backend 'vllm', only for"),
        (["--endpoint", "chat"], "--endpoint: not for backend 'hf'"),
        (["--backend", "ollama", "--endpoint", "native"], "'generate' or 'chat'"),
        (["--backend", "ollama", "--keep-alive", "soon"], "such as 10m"),
        (["--backend", "ollama", "--num-ctx", "8"], "do not fit into num_ctx 8"),
        (["--backend", "vllm", "--device", "cuda"], "only for hf"),
        (["--temperature", "1"], "--temperature: not for backend 'hf', only for openai, vllm"),
        (["--backend", "openai", "--top-k", "4"], "--top-k: not for backend 'openai'"),
        (["--backend", "tgi", "--no-ignore-eos"], "--ignore-eos: not for backend 'tgi'"),
        (["--backend", "vllm", "--top-p", "1.5", "--temperature", "1"], "--top-p"),
        (["--backend", "vllm", "--extra-body", "{"], "--extra-body: '{' is not JSON"),
        (["--backend", "vllm", "--extra-body", "[1]"], "--extra-body: '[1]' given, allowed: an"),
        (["--backend", "vllm", "--extra-body", '{"a": NaN}'], "is not JSON"),
        (["--backend", "vllm", "--extra-body", '{"stream": 1}'], "'stream' is chosen by"),
        (["--backend", "tgi", "--reset-cache"], "not for backend 'tgi', only for vllm, llama"),
        (["--config", "absent.yaml"], "absent.yaml: no such file"),
        (["--output-dir", "/dev/null/runs"], "--output-dir"),
        (["--trace", "."], "--trace: .: no regular file"),
        (["--dataset", LONG], "File name too long"),
        (["--trace", LONG], "File name too long"),
        (["--config", LONG], "not readable (File name too long)"),
        (["--percentiles", "٣"], "'٣' is not a number"),
        (["--percentiles", "9_9"], "'9_9' is not a number"),
        (["--backend", "ollama", "--keep-alive", "٣m"], "such as 10m"),
        (["--request-rate", "2000000"], "distinct rates above 0 and at most 1000000"),
    ],
)
def test_a_mistake_in_usage_is_exit_2(cli, error_line, words, says):
    assert says in error_line(cli("loadgen", "run", *FAST[:-2], *words), 2)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("show", LONG), 4, "no manifest.json in"),
        (("show", "--output-dir", LONG), 4, "no manifest.json in"),
        (("run", "--metrics-port", "0", "--model", LONG), 3, "neither a folder with a config.json"),
        (("run", "--metrics-port", "0", "--model", "~no-such-user/m"), 3, "neither a folder with"),
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(cli, error_line, words, code, says):
    assert says in error_line(cli("loadgen", *words), code)


def without_a_pass():
    """Before a command: what the superuser may read though its mode forbids it, it may not."""
    libc, drop_from_bounding_set, override, read_search = ctypes.CDLL(None), 24, 1, 2
    for capability in (override, read_search):
        libc.prctl(drop_from_bounding_set, capability, 0, 0, 0)


@pytest.fixture
def locked(synthetic_run, tmp_path):
    """A run, a file and a folder that nobody may read or write."""
    run = synthetic_run(levels=(1,)).write(tmp_path)
    (run / "requests.jsonl").chmod(0)
    (tmp_path / "file").touch(0)
    (tmp_path / "folder").mkdir(0)
    return run.name


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("run", "--trace", "file"), 4, "--trace: file: cannot be read (Permission denied)"),
        (("run", "--dataset", "file"), 4, "--dataset: file: cannot be read (Permission denied)"),
        (("run", "--dataset", "folder/x"), 4, "folder/x: cannot be read (Permission denied)"),
        (("run", "--config", "file"), 2, "file: not readable (Permission denied)"),
        (("run", "--output-dir", "folder"), 2, "--output-dir: cannot create a run in 'folder'"),
        (("show", "folder"), 4, "folder: cannot be read (Permission denied)"),
        (("show", "x", "--output-dir", "folder"), 4, "folder/x: cannot be read (Permission"),
        (("show", "RUN"), 4, "requests.jsonl: cannot be read (Permission denied)"),
        (("export", "RUN", "--output", "folder/x"), 2, "--output: 'folder/x' cannot be made"),
        (("export", "RUN", "--format", "parquet", "--output", "folder/x.parquet"), 4,
         "folder/x.parquet: cannot be written (Permission denied)"),
    ],
)  # fmt: skip
def test_what_may_not_be_read_or_written_is_one_line(cli, error_line, locked, words, code, says):
    words = (locked if word == "RUN" else word for word in words)
    assert says in error_line(cli("loadgen", *words, preexec_fn=without_a_pass), code)


def test_no_command_is_exit_2_and_names_them(cli, error_line):
    line = error_line(cli("loadgen"), 2)
    assert all(name in line for name in ("run", "check", "show", "backends", "models"))


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("agnets: 4", "unknown field 'agnets', did you mean 'agents'"),
        ("duration: .nan", "duration"),
        ("agents: 4..1", "'4..1' is empty"),
        ("backend: {kind: hf, treads: 2}", "treads"),
        ("backend: tgy", "'tgy' is unknown"),
        ("- 1", "a mapping is wanted"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_mistake_in_a_file_names_file_and_field(cli, error_line, tmp_path, yaml, says):
    (tmp_path / "run.yaml").write_text(yaml)
    line = error_line(cli("loadgen", "run", "--config", "run.yaml"), 2)
    assert says in line


def test_flags_win_over_the_file(cli, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: tiny-gpt2\nagents: 1..8\nduration: 60\nisl: 8\nosl: 4\nmetrics_port: 0\n"
    )
    done = cli("loadgen", "run", "--config", "run.yaml", "--agents", "2", "--request-count", "3")
    assert done.returncode == 0, done.stderr
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    assert (run.manifest.config["agents"], run.manifest.config["request_count"]) == ([2], 3)
    assert run.manifest.config["duration"] is None


def test_a_server_that_is_not_running_is_exit_3_and_says_what_to_start(cli, error_line, free_port):
    done = cli("loadgen", "run", "--backend", "vllm", "--base-url", f"http://127.0.0.1:{free_port}",
               "--metrics-port", "0")  # fmt: skip
    line = error_line(done, 3)
    assert f"127.0.0.1:{free_port}" in line
    assert "vllm serve" in line


def test_a_model_the_server_lacks_is_exit_3_with_the_names(cli, error_line, fake):
    url = fake("--model", "alpha", "--model", "beta")
    words = ("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port", "0")
    line = error_line(cli(*words, "--model", "betta"), 3)
    assert "alpha" in line
    assert "beta" in line
    line = error_line(cli(*words), 3)
    assert "alpha" in line


def test_an_unknown_local_model_is_exit_3_with_the_names(cli, error_line):
    done = cli("loadgen", "run", "--model", "tiny-gpt", "--metrics-port", "0")
    assert "tiny-gpt2" in error_line(done, 3)


def test_a_busy_metrics_port_is_exit_2_and_names_the_flag(cli, error_line):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = error_line(cli("loadgen", "run", *FAST[:-1], port, "--duration", "1"), 2)
    assert "--metrics-port" in line
    assert port in line


def test_a_context_that_is_too_short_is_refused_with_the_limit(cli, error_line):
    done = cli("loadgen", "run", "--model", "tiny-gpt2", "--isl", "1000", "--osl", "100",
               "--agents", "1", "--metrics-port", "0", "--duration", "1")  # fmt: skip
    assert "1024" in error_line(done, 3)


def test_check_and_the_lists(cli, fake):
    url = fake("--model", "alpha")
    found = cli("loadgen", "check", "--backend", "vllm", "--base-url", url, "--json")
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    assert (document["model"], document["streaming"]) == ("alpha", True)
    assert document["usage"] == "from the server"
    models = {
        m["name"]: m["parameters"] for m in json.loads(cli("loadgen", "models", "--json").stdout)
    }
    assert round(models["tiny-gpt2"] / 1e6, 3) == 0.103
    assert round(models["gpt2-25m"] / 1e6, 3) == 25.016
    backends = json.loads(cli("loadgen", "backends", "--json").stdout)
    assert backends["vllm"]["address"] == "http://127.0.0.1:8000"
