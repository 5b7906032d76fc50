"""GPU memory of a served model, in bytes.

peak = intercept + weights * weight_factor + KV * kv_factor + attention workspace. The gate looks
at the upper end, peak + margin, where the margin is the fit's one-sided 95 % prediction bound:
the fit's own mean misses low as often as it misses high, and low means out of memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from analysis.planner.catalog import Catalog
from analysis.planner.values import Value

GIB = 2.0**30
KV_ELEMENT_BYTES = 2  # an FP16 cache


class Footprint(NamedTuple):
    """What one replica holds: `fixed` bytes whatever runs, `per_sequence` for each in flight."""

    fixed: float
    per_sequence: float
    margin: float
    inputs: tuple[Value, ...]

    def upper(self, sequences: int) -> float:
        """The upper bound in bytes with that many sequences in flight."""
        return self.fixed + self.margin + self.per_sequence * sequences

    def room_for(self, capacity: float) -> int:
        """How many sequences fit into `capacity` bytes by the upper bound; 0 when none does."""
        return max(0, math.floor((capacity - self.fixed - self.margin) / self.per_sequence))


def weight_bytes(parameters: float, bits_per_weight: float) -> float:
    """Bytes of the weights."""
    return parameters * bits_per_weight / 8.0


def kv_bytes_per_token(layers: float, kv_heads: float, head_dim: float) -> float:
    """Keys and values of one token over all layers, FP16."""
    return 2.0 * layers * kv_heads * head_dim * KV_ELEMENT_BYTES


def score_bytes(query_heads: float, context: int, per_score: float) -> float:
    """The score matrix that naive attention holds for one sequence: query heads x context^2."""
    return per_score * query_heads * float(context) ** 2


def footprint(
    catalog: Catalog, model: str, quantization: str, backend: str, context: int
) -> Footprint:
    """The footprint of a catalog model; `context` tokens are held per sequence."""
    params, layers, kv_heads, query_heads, head_dim = shape = tuple(
        catalog.value("models", model, field)
        for field in ("params", "layers", "kv_heads", "query_heads", "head_dim")
    )
    bits = catalog.value("quantizations", quantization, "bits")
    factors = tuple(catalog.memory(n) for n in ("weight_factor", "kv_factor", "intercept"))
    weight_factor, kv_factor, intercept = (each.value for each in factors)
    kv = kv_bytes_per_token(layers.value, kv_heads.value, head_dim.value) * context
    naive = catalog.engine(backend)["attention"] == "naive"
    scores = catalog.memory("score_bytes")
    workspace = score_bytes(query_heads.value, context, scores.value) if naive else 0.0
    return Footprint(
        fixed=intercept * GIB + weight_factor * weight_bytes(params.value * 1e9, bits.value),
        per_sequence=kv_factor * kv + workspace,
        margin=catalog.memory("upper_margin").value * GIB,
        inputs=(*shape, bits, *factors, *((scores,) if naive else ())),
    )
