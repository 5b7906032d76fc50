"""Which law: by how well each predicts a level it has not seen.

Every level but the lowest is left out in turn (the lowest alone holds the scale). A law's error
is the mean over the levels left out of |predicted / measured - 1|. Laws within one standard
error of the best are tied; ties go to the fewer parameters, then to the order of `LAWS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.fits.scaling import LAWS, Array, Law, fit_law

# Relative errors closer than this are the same number: rounding, not evidence.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Selection:
    """The chosen law, the laws tied with it, and the mean leave-one-level-out error of each."""

    law: Law
    tied: tuple[Law, ...]
    loo_error: dict[str, float]


def leave_one_level_out(law: Law, agents: npt.ArrayLike, throughput: npt.ArrayLike) -> Array:
    """Relative error at each level left out (all but the lowest), ascending in N.

    The measured value of a level is the geometric mean of its points.
    """
    n, x = np.asarray(agents, dtype=float), np.asarray(throughput, dtype=float)
    errors = []
    for level in np.unique(n)[1:]:
        held = n == level
        predicted = float(fit_law(law, n[~held], x[~held]).predict([level])[0])
        errors.append(abs(predicted / float(np.exp(np.log(x[held]).mean())) - 1.0))
    return np.asarray(errors)


def select(
    errors: Mapping[str, Array], measured: float = 0.0, laws: Sequence[Law] = LAWS
) -> Selection:
    """Choose among `laws` from their leave-one-level-out errors (law name -> one per level).

    `measured` is the relative standard error of one level's throughput. The standard error is
    never taken below it: errors of levels left out share the rest of the data, so they do not
    average out, however alike they happen to be.
    """
    mean = {law.name: float(errors[law.name].mean()) for law in laws}
    best = min(laws, key=lambda law: mean[law.name])
    limit = mean[best.name] + max(_ROUNDING, measured, _standard_error(errors[best.name]))
    within = [law for law in laws if mean[law.name] <= limit]
    chosen = min(within, key=lambda law: law.parameters)  # min keeps the first of equals
    return Selection(law=chosen, tied=tuple(x for x in within if x is not chosen), loo_error=mean)


def _standard_error(errors: Array) -> float:
    return float(errors.std(ddof=1) / np.sqrt(len(errors))) if len(errors) > 1 else 0.0
