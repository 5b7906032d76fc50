"""A stage over several servers, told apart by the address in its records."""

from dataclasses import replace

import pytest

from contract.records import Manifest, RequestRecord
from contract.rundir import Run
from loadgen.figures.summary import table
from loadgen.files.close import counted, tallied

URLS = ["http://one:8000", "http://other:8000", "http://idle:8000"]


@pytest.fixture
def run_over(synthetic_run, tmp_path):
    """`run_over(urls)`: two stages whose even requests went to the first, at twice the latency,
    and whose others went to the second, every tenth of which it refused."""

    class Over(synthetic_run):
        urls: list[str]

        def manifest(self) -> Manifest:
            server = {"backend": "vllm", "address": None, "addresses": self.urls}
            return replace(super().manifest(), server=server)

    def spread(record: RequestRecord) -> RequestRecord:
        if record.seq % 2 == 0:
            return replace(record, address=0, due=2 * record.due - record.ended)
        if record.seq % 10 == 1:
            return replace(record, address=1, outcome="rejected", first_token=None, last_token=None)
        return replace(record, address=1)

    def run_over(urls, edit=spread):
        made = Over(levels=(2, 4), edit=edit)
        made.urls = urls
        return Run.open(made.write(tmp_path))

    return run_over


def summed(run):
    """The summary of a run as it is made from its records."""
    return counted(run, tallied(run))


def test_each_address_has_its_own_figures_and_they_add_up(run_over):
    for stage in summed(run_over(URLS))["stages"]:
        one, other, idle = stage["addresses"]
        assert [part["address"] for part in stage["addresses"]] == URLS
        assert one["outcomes"] == {"ok": one["requests"]}
        assert other["outcomes"]["rejected"] == other["requests"] - other["ok"] > 0
        assert (idle["requests"], idle["ok"], idle["outcomes"], idle["e2e"]) == (0, 0, {}, None)
        assert one["e2e"]["p50"] == pytest.approx(2 * other["e2e"]["p50"])
        assert one["e2e"]["n"] == one["ok"]
        assert list(one["ttft"]) == ["mean", "p50", "p95", "p99", "n"]
        for rate in ("requests_per_second", "output_tokens_per_second"):
            total = sum(part[rate] for part in stage["addresses"])
            assert total == pytest.approx(stage[rate])
        requests = sum(part["requests"] for part in stage["addresses"])
        assert requests == sum(stage["outcomes"].values())


def test_a_table_of_them_stands_below_the_others(run_over):
    *_, heading, header, row, other, idle, _, _, _, failed, _ = table(
        summed(run_over(URLS))["stages"]
    ).splitlines()
    assert heading == "by address; milliseconds, p50/p95/p99"
    assert header.split() == ["agents", "address", "ok/total", "req/s", "tok/s", "TTFT", "e2e"]
    assert row.split()[:2] == ["2", URLS[0]]
    assert other.split()[:2] == ["2", URLS[1]]
    assert idle.split() == ["2", URLS[2], "0/0", "0", "0", "-/-/-", "-/-/-"]
    assert failed.startswith(f"  2 agents: {URLS[1]}: not ok: ")
    assert failed.endswith(" rejected")


def test_one_server_has_no_such_breakdown(run_over):
    run = run_over([], edit=lambda record: record)
    summary = summed(run)
    assert all("addresses" not in stage for stage in summary["stages"])
    assert "by address" not in table(summary["stages"])


def test_a_request_that_was_never_sent_is_nobodys(run_over):
    edit = lambda record: replace(record, outcome="cancelled", sent=None)  # noqa: E731
    for stage in summed(run_over(URLS, edit))["stages"]:
        assert [part["requests"] for part in stage["addresses"]] == [0, 0, 0]


@pytest.mark.parametrize("wrong", ["http://h", [1], {"a": "b"}])
def test_addresses_that_are_no_list_of_texts_are_damage(synthetic_run, wrong):
    document = synthetic_run().manifest().to_json()
    document["server"]["addresses"] = wrong
    with pytest.raises(ValueError, match=r"server\.addresses: a list of texts is expected"):
        Manifest.from_json(document)


def test_what_is_fitted_is_keyed_by_all_of_them_together(run_over):
    manifest = run_over(URLS).manifest
    assert manifest.hardware == "3 servers on Test CPU"
    named = replace(manifest, config={"hardware": "RTX 4090 24GB"})
    assert named.hardware == "3 servers on RTX 4090 24GB"
    away = replace(manifest, server={**manifest.server, "remote": True})
    assert away.hardware == "3 servers on unknown"
