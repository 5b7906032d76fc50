"""A run on the lane, one on the general way, and one where nothing was compiled: the same run."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import orjson
import pytest

from loadgen.lane import COMPILED

UNCOMPILED = """
import sys
sys.modules["loadgen.lane.core"] = None
from loadgen.cli import main
sys.exit(main())
"""
WAYS = {
    "wire": (("-m", "loadgen"), "wire", "compiled"),
    "general": (("-m", "loadgen"), "general", "compiled"),
    "uncompiled": (("-c", UNCOMPILED), "wire", "absent"),
}
LOAD = ("--agents", "3", "--request-count", "60", "--isl", "8..20", "--osl", "1..9", "--seed", "5",
        "--warmup-requests", "3", "--metrics-port", "0", "--json")  # fmt: skip


def ran(url, folder, launcher, client):
    """The run directory of one run."""
    command = [sys.executable, *launcher, "run", "--backend", "vllm", "--base-url", url, *LOAD]
    done = subprocess.run(
        [*command, "--client", client, "--output-dir", folder],
        capture_output=True, text=True, timeout=120, cwd=folder.parent, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    return Path(folder / "latest").resolve()


@pytest.mark.skipif(not COMPILED, reason="the lane was not compiled here")
def test_all_three_ways_ask_the_same_and_record_the_same(serve, log_of, tmp_path):
    found, asked = {}, {}
    for way, (launcher, client, lane) in WAYS.items():
        _, url = serve("vllm", "--step-seconds", "0.001", "--sequence-seconds", "0")
        run = ran(url, tmp_path / way, launcher, client)
        manifest = orjson.loads((run / "manifest.json").read_bytes())
        assert (manifest["versions"]["lane"], manifest["status"]) == (lane, "complete")
        records = list(map(orjson.loads, (run / "requests.jsonl").read_bytes().splitlines()))
        assert Counter(r["phase"] for r in records)["measured"] == 60
        assert {r["outcome"] for r in records if r["phase"] != "drain"} == {"ok"}
        for record in records:
            assert record["due"] <= record["sent"] <= record["first_token"] <= record["last_token"]
            assert len(record["gaps_us"]) == record["chunks"] - 1
        names = ("prompt_tokens", "output_tokens", "chunks", "finish_reason", "asked_tokens")
        found[way] = {(r["agent"], r["seq"]): [r[name] for name in names] for r in records}
        asked[way] = len(log_of(url)["requests"])
    # Which agent asked how often is a matter of time; what it was given is not.
    for way in ("general", "uncompiled"):
        both = found["wire"].keys() & found[way].keys()
        assert len(both) >= 40
        assert all(found["wire"][key] == found[way][key] for key in both)
        assert all(asked[way] >= len(found[way]) for way in WAYS)


@pytest.mark.parametrize("blocked", ["loadgen.lane.core", "loadgen.lane.none"])
@pytest.mark.parametrize("first", ["lane", "wire", "facts", "conduct", "observe", "shards.process"])
def test_whatever_is_imported_first_the_lane_is_found_or_done_without(first, blocked):
    code = f"import sys; sys.modules['{blocked}'] = None; import loadgen.{first}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
