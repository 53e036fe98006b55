"""One probe as a score of features: how much of its accuracy is left when they are rebuilt or corrupted?"""

from collections.abc import Callable

import torch

from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.data.rows import Inputs, spread_rows, take_rows
from monosem.measures.blocks import Features, Labels, check_labels, features_shape, row_blocks
from monosem.robust.ridge import RidgePath, RidgeSettings

_MOST_ROWS = 2**15


def probe_accuracy(
    features: Inputs | Codes, labels: Labels, test_labels: Labels, n_classes: int, seed: int = 0
) -> Callable[[Features], float]:
    """The accuracy of a probe on features `[M, D]` of samples with `test_labels` `[M]`.

    The probe is ridge on features `[N, D]` with labels `[N]`, its strength chosen by leave-one-out on them;
    of more than 2^15 rows so many, evenly spaced, are taken. Given to `sae_quality` as `downstream`, with
    the test features, it says which share of its accuracy is left on what an SAE makes of them.

    Raises:
        InputError: labels that do not fit, or of one class only; features that are not finite or all equal.
            When scoring: another number of rows than `test_labels`.
    """
    given = torch.from_numpy(check_labels(labels, features_shape(features)[0], n_classes))
    truth = torch.from_numpy(check_labels(test_labels, len(test_labels), n_classes))
    rows = spread_rows(len(given), _MOST_ROWS, length=1)
    settings = RidgeSettings(loo_rows=min(len(rows), 4096))
    some = (
        features.take(rows.to(features.device)) if isinstance(features, Codes) else take_rows(features, rows)
    )
    fits = RidgePath.fit(some).solve(given[rows][None], n_classes, settings, seed)
    probe = fits.probes(fits.tuned())

    def score(of: Features) -> float:
        if (n := features_shape(of)[0]) != len(truth):
            raise InputError(f"a probe that is scored on {len(truth)} labels got features of {n} samples")
        return sum(
            int((probe.predict(block)[0].cpu() == truth[span]).sum()) for span, block in row_blocks(of)
        ) / len(truth)

    return score
