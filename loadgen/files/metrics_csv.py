"""`metrics.csv`: the records of a run as a flat table, three rows per request. Pure.

The rows are `prefill` (due to first token), `kv_decode` (first token to last) and `e2e_kv`
(due to last token), timed by the client. What a server reported about itself stands beside, in
`prefill_ms` and `kv_decode_ms`. What is not known is empty.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from contract.records import Manifest, RequestRecord, ServerFacts, Stage, StageKey

MODES = ("prefill", "kv_decode", "e2e_kv")
COLUMNS = (
    *("task_idx", "scenario", "backend", "backend_kind", "model", "model_kind"),
    *("params_millions", "params_millions_config", "prompt", "prompt_chars"),
    *("gen_tokens_target", "batch_size_config", "call_idx", "sample_idx", "is_warmup"),
    *("warmup_idx", "rep", "mode", "status", "error", "started_at_unix", "batch_size"),
    *("seq_len", "prompt_tokens_raw", "prefill_ms", "prefill_cuda_event_ms", "kv_decode_ms"),
    *("kv_decode_ms_equiv", "kv_decode_ms_per_token", "kv_decode_cuda_event_ms"),
    *("gen_tokens_raw", "gen_tokens_equiv", "ollama_wall_ms", "ollama_total_duration_ms"),
    *("ollama_load_ms", "ollama_done_reason", "params_millions_measured", "latency_ms"),
    *("cuda_event_ms", "tokens_total", "tokens_per_s", "gen_tokens", "gpu_peak_mb", "hf_load_ms"),
)

PLACES = {name: place for place, name in enumerate(COLUMNS)}
SAMPLE, MODE = PLACES["sample_idx"], PLACES["mode"]


@dataclass(slots=True)
class MetricsTable:
    """Writes the rows of one run's records to `file`, as they come; drain is left out.

    `keys` are the cells of the stages by number: `task_idx` is that number.
    """

    file: TextIO
    manifest: Manifest
    keys: Mapping[int, StageKey]
    calls: int = 0
    _seen: Counter[tuple[int, bool]] = field(default_factory=Counter)
    _writer: Any = field(init=False)

    def __post_init__(self) -> None:
        self._writer = csv.writer(self.file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def add(self, record: RequestRecord) -> None:
        """Write the three rows of one record, if its stage is known."""
        key = self.keys.get(record.stage)
        if record.phase == "drain" or key is None:
            return
        shared = self._shared(record, key)
        shared.update(_reported(record, key, on_gpu=bool(self.manifest.gpus)))
        row = [shared.get(name) for name in COLUMNS]
        for place, mode in enumerate(MODES):
            row[SAMPLE], row[MODE] = 3 * self.calls + place, mode
            for name, value in _timed(record, mode).items():
                row[PLACES[name]] = value
            self._writer.writerow(row)
        self.calls += 1

    def _shared(self, record: RequestRecord, key: StageKey) -> dict[str, Any]:
        warmup = record.phase == "warmup"
        index = self._seen[record.stage, warmup]
        self._seen[record.stage, warmup] += 1
        parameters = self.manifest.model.get("parameters")
        started = record.due if record.sent is None else record.sent
        return {
            "task_idx": record.stage,
            "scenario": f"{_load(key)}_isl{key.prompt_tokens}_osl{key.output_tokens}",
            "backend": key.backend,
            "backend_kind": key.backend,
            "model": key.model,
            "model_kind": key.backend,
            "params_millions": parameters / 1e6 if parameters else None,
            "gen_tokens_target": key.output_tokens,
            "batch_size_config": key.batch_size,
            "call_idx": self.calls,
            "is_warmup": warmup,
            "warmup_idx": index if warmup else None,
            "rep": None if warmup else index,
            "status": record.outcome,
            "error": record.error,
            "started_at_unix": self.manifest.epoch_unix + started,
            "batch_size": key.batch_size,
            "prompt_tokens_raw": record.prompt_tokens,
            "gen_tokens_raw": record.output_tokens,
        }


def keys_of(manifest: Manifest, stages: list[Stage]) -> dict[int, StageKey]:
    """The cells by stage number: of finished stages as they say, of the others as planned."""
    planned = dict(enumerate(manifest.planned, 1))
    return {**planned, **{stage.stage: stage.key for stage in stages}}


def _load(key: StageKey) -> str:
    return f"agents{key.agents}" if key.request_rate is None else f"rate{key.request_rate:g}"


def _reported(record: RequestRecord, key: StageKey, *, on_gpu: bool) -> dict[str, Any]:
    facts = record.server or ServerFacts()
    decode, tokens = _ms(facts.decode), record.output_tokens
    per_token = decode / tokens if decode is not None and tokens else None
    row = {
        "prefill_ms": _ms(facts.prefill),
        "kv_decode_ms": decode,
        "kv_decode_ms_per_token": per_token,
        "kv_decode_ms_equiv": per_token * key.output_tokens if per_token else None,
        "gen_tokens_equiv": key.output_tokens if per_token else None,
    }
    if key.backend == "hf":
        row |= {"seq_len": record.prompt_tokens, "hf_load_ms": _ms(facts.load)}
        if on_gpu and facts.peak_memory_bytes is not None:
            row["gpu_peak_mb"] = facts.peak_memory_bytes / 2**20
    if key.backend == "ollama":
        wall = None if record.sent is None else record.ended - record.sent
        row |= {"ollama_wall_ms": _ms(wall), "ollama_load_ms": _ms(facts.load)}
        row["ollama_done_reason"] = record.finish_reason  # type: ignore[assignment]
    return row


def _timed(record: RequestRecord, mode: str) -> dict[str, Any]:
    seconds, tokens = _measured(record, mode)
    facts = record.server
    return {
        "latency_ms": _ms(seconds),
        "tokens_total": tokens,
        "tokens_per_s": tokens / seconds if seconds and tokens is not None else None,
        "gen_tokens": 0 if mode == "prefill" else record.output_tokens,
        "cuda_event_ms": facts.cuda_ms if facts is not None and mode == "e2e_kv" else None,
    }


def _measured(record: RequestRecord, mode: str) -> tuple[float | None, int | None]:
    first, last = record.first_token, record.last_token
    prompt, output = record.prompt_tokens, record.output_tokens
    if mode == "prefill":
        return record.ttft, prompt
    if mode == "kv_decode":
        return (last - first if first is not None and last is not None else None), output
    both = prompt + output if prompt is not None and output is not None else None
    return record.latency, both


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
