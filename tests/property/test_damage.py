"""Whatever is wrong with a run directory is one DataError, never a crash and never silence."""

import json
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.errors import DataError
from contract.records import Manifest, RequestRecord, Stage
from contract.rundir import Run

WRONG = [None, True, "text", [1], {"a": None}, 1e308, [], {}, -1.5]
SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def paths(document, above=()):
    """Every place in a JSON document that can be damaged."""
    found = [above] if above else []
    items = document.items() if isinstance(document, dict) else ()
    if isinstance(document, list):
        items = enumerate(document[:1])
    for name, value in items:
        found += paths(value, (*above, name))
    return found


def damaged(document, path, value):
    """A copy with one place replaced."""
    copy = json.loads(json.dumps(document))
    place = copy
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return copy


def read(path):
    """The one error there is, and the records before it."""
    records = []
    try:
        records.extend(Run.open(path).records())
    except DataError as error:
        return str(error), records
    return None, records


@SETTINGS
@given(data=st.data())
@pytest.mark.parametrize(
    ("kind", "name"),
    [(RequestRecord, "requests.jsonl"), (Stage, "stages.jsonl"), (Manifest, "manifest.json")],
)
def test_one_damaged_field_reads_the_same_or_is_one_error(
    synthetic_run, tmp_path_factory, kind, name, data
):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path_factory.mktemp("run"))
    file = path / name
    lines = file.read_text().splitlines() if name.endswith("l") else [file.read_text()]
    document = json.loads(lines[0])
    place = data.draw(st.sampled_from(paths(document)))
    value = data.draw(st.sampled_from(WRONG))
    lines[0] = json.dumps(damaged(document, place, value))
    file.write_text("\n".join(lines) + "\n")
    error, records = read(path)
    assert error is None or (name in error and "\n" not in error)
    assert all(RequestRecord.from_json(asdict(record)) == record for record in records)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"due": "soon"}, "due: 'soon' found, float expected"),
        ({"due": None}, "due: None found, float expected"),
        ({"ended": 1e308}, "ended: 1e+308 found"),
        ({"phase": "measure"}, "phase: 'measure' found"),
        ({"prompt_tokens": True}, "prompt_tokens: True found, int at least 0 | None expected"),
        ({"gaps_us": ["1"]}, "gaps_us: ['1'] found"),
        ({"stage": [1]}, "stage: [1] found, int at least 0 expected"),
        ({"server": 3}, "server: 3 found"),
        ({"server": {"prefill": "x"}}, "prefill: 'x' found"),
        ({"agents": 9}, "line 1 says 9 agents, its stage 1 had 1"),
        ({"outcome": "fine"}, "outcome: 'fine' found, one of ok, truncated, "),
        ({"chunks": -1}, "chunks: -1 found, int at least 0 expected"),
        ({"retries": -1}, "retries: -1 found, int at least 0 expected"),
        ({"connect": -0.1}, "connect: -0.1 found, float at least 0 | None expected"),
        ({"due": 99.0}, "sent: 1.25 found, at least due = 99.0 expected"),
        ({"sent": None, "due": 99.0}, "first_token: 1.375 found, at least due = 99.0 expected"),
        ({"first_token": 0.5}, "first_token: 0.5 found, at least sent = 1.25 expected"),
        ({"ended": 1.4}, "ended: 1.4 found, at least last_token = 1.5 expected"),
        ({"first_answer": 9.0}, "first_answer: 9.0 found, first_token = 1.375 to last_token = "),
        ({"gaps_us": [1]}, "gaps_us: 1 of them found, 29 expected of 30 chunks"),
        ({"gaps_us": [-1] * 29}, "found, list[int at least 0] expected"),
        ({"gaps_us": [9000] * 29}, "gaps_us: 261000 together found, at most 125000"),
        ({"chunks": 0}, "gaps_us: 29 of them found, 0 expected of 0 chunks"),
        ({"run": "other"}, "line 1 belongs to run 'other', expected '2026"),
    ],
)
def test_a_damaged_record_is_named_with_line_and_field(synthetic_run, tmp_path, change, says):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    lines = (path / "requests.jsonl").read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), **change})
    (path / "requests.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as damaged:
        list(Run.open(path).records())
    assert says in str(damaged.value)


@pytest.mark.parametrize("rounding", [{"sent": 1.2499999}, {"last_token": 1.5000001}])
def test_what_rounding_does_to_instants_is_no_damage(synthetic_run, tmp_path, rounding):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    lines = (path / "requests.jsonl").read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), **rounding})
    (path / "requests.jsonl").write_text("\n".join(lines) + "\n")
    assert len(list(Run.open(path).records())) == 82


@pytest.mark.parametrize("figure", ["many", -1, True, 1e300])
def test_a_model_of_no_size_is_damage_of_the_manifest(synthetic_run, tmp_path, figure):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    document = json.loads((path / "manifest.json").read_text())
    document["model"]["parameters"] = figure
    (path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(
        DataError, match=r"manifest.json: .*\(model.parameters: .* a number at least 0"
    ):
        Run.open(path)


def test_json_nested_without_end_is_one_error(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    (path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not readable as JSON"):
        Run.open(path)
