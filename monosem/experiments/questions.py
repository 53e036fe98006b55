"""What a recipe can ask beyond probes on every feature set; each question adds works to an encoder pair."""

from collections.abc import Callable, Iterable

from monosem.experiments import (
    axes,
    dose_response,
    finetuning,
    noisy_label_losses,
    salient_features,
    where_it_pays,
)
from monosem.experiments.encoder_pair import EncoderPair
from monosem.experiments.works import Work

QUESTIONS: tuple[Callable[[EncoderPair], Iterable[Work]], ...] = (
    noisy_label_losses.works,
    axes.works,
    salient_features.works,
    dose_response.works,
    where_it_pays.works,
    finetuning.works,
)
"""Each gives the works that the pair's recipe asks for, in order; none where it does not ask."""

NOTICES: tuple[Callable[[EncoderPair], Iterable[str]], ...] = (finetuning.notices,)
"""Each gives what a user should know of a question beforehand, from the first of the pairs."""
