import pytest

from analysis.planner.catalog import load_catalog
from analysis.planner.memory import (
    GIB,
    Footprint,
    footprint,
    kv_bytes_per_token,
    score_bytes,
    weight_bytes,
)

# Measured GiB of TR133 SS4.3, one sequence in FP16: (model, context, GiB).
MEASURED = [
    ("qwen2.5-0.5b", 512, 2.12),
    ("llama3.2-1b", 2048, 3.67),
    ("qwen2.5-1.5b", 2048, 4.46),
    ("llama3.2-3b", 2048, 8.93),
    ("llama3.2-1b", 16384, 4.33),
    ("phi-2", 8192, 8.38),
    ("llama3.1-8b", 8192, 18.79),
]


@pytest.mark.parametrize(
    ("layers", "kv_heads", "head_dim", "per_token"),
    [(24, 2, 64, 12288), (28, 2, 128, 28672), (28, 8, 128, 114688), (32, 32, 80, 327680)],
)
def test_kv_bytes(layers: int, kv_heads: int, head_dim: int, per_token: int) -> None:
    assert kv_bytes_per_token(layers, kv_heads, head_dim) == per_token


def test_weights_are_decimal_parameters_in_bytes() -> None:
    assert weight_bytes(3.21e9, 16) == 6.42e9
    assert weight_bytes(8.03e9, 16) / GIB == pytest.approx(14.95704, rel=1e-6)


def test_scores_grow_with_query_heads_and_the_square_of_the_context() -> None:
    assert score_bytes(16, 4096, 9.5) == 4 * score_bytes(16, 2048, 9.5)
    assert score_bytes(24, 2048, 9.5) == 1.5 * score_bytes(16, 2048, 9.5)


def test_the_fit_of_the_measured_values_in_bytes() -> None:
    """0.97768 GiB per 1e9 bytes of weights, 1.23907 of the cache and 1.39343 GiB beside them."""
    held = footprint(load_catalog(), "llama3.2-3b", "FP16", "vllm", 2048)
    assert held.fixed / GIB == pytest.approx(6.42 * 0.9776768 + 1.3934336, rel=1e-5)
    assert held.per_sequence / GIB == pytest.approx(0.21875 * 1.2390698, rel=1e-5)


@pytest.mark.parametrize(("model", "context", "gib"), MEASURED)
def test_upper_bound_covers_what_was_measured(model: str, context: int, gib: float) -> None:
    held = footprint(load_catalog(), model, "FP16", "vllm", context)
    assert held.upper(1) / GIB >= gib
    assert held.upper(1) / GIB <= gib + 3.0


def test_naive_attention_needs_the_score_matrix_and_paged_does_not() -> None:
    catalog = load_catalog()
    paged = footprint(catalog, "qwen2.5-3b", "FP16", "vllm", 8192)
    naive = footprint(catalog, "qwen2.5-3b", "FP16", "transformers-gpu", 8192)
    assert naive.per_sequence - paged.per_sequence == pytest.approx(9.5 * 16 * 8192**2)


def test_room_counts_whole_sequences_under_the_upper_bound() -> None:
    held = Footprint(fixed=4.0, per_sequence=2.0, margin=1.0, inputs=())
    assert [held.room_for(capacity) for capacity in (4.0, 6.9, 7.0, 11.5)] == [0, 0, 1, 3]
    assert held.upper(3) == 11.0


def test_quantized_weights_are_smaller() -> None:
    catalog = load_catalog()
    names = catalog.names("quantizations")
    sizes = [footprint(catalog, "llama3.1-8b", n, "vllm", 2048).fixed for n in names]
    assert sizes == sorted(sizes, reverse=True)
