from scipy import stats

from loadgen.workload.draws import uniform


def test_a_draw_depends_on_its_keys_alone():
    assert uniform(1, "isl", 5) == uniform(1, "isl", 5)
    keys = [(s, p, n) for s in (0, 1, 2**31) for p in ("isl", "osl", "think") for n in range(50)]
    assert len({uniform(s, p, n) for s, p, n in keys}) == len(keys)


def test_draws_are_uniform_and_neighbours_are_unrelated():
    draws = [uniform(0, "isl", n) for n in range(20_000)]
    assert 0 < min(draws) < max(draws) < 1
    assert stats.kstest(draws, "uniform").pvalue > 0.001
    assert abs(stats.spearmanr(draws[:-1], draws[1:]).statistic) < 4 / 20_000**0.5
    other = [uniform(0, "osl", n) for n in range(20_000)]
    assert abs(stats.spearmanr(draws, other).statistic) < 4 / 20_000**0.5
