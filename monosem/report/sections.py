"""The sections of a report beyond verdicts, curves and ladders; each is there where a run asked for it."""

import pandas as pd

from monosem.report.axes_figure import axes_section
from monosem.report.corruption_figure import corruption_section
from monosem.report.dose_figure import dose_section
from monosem.report.finetune_figure import finetune_section
from monosem.report.loss_figure import loss_section
from monosem.report.map_figure import map_section
from monosem.report.run_tables import ordinary
from monosem.report.salience_figure import salience_section
from monosem.report.section import Section
from monosem.report.shift_figure import shift_section

_ORDINARY = (corruption_section, shift_section, loss_section, axes_section, finetune_section)
_BEYOND_CLAIMS = (salience_section, dose_section, map_section)


def sections(results: pd.DataFrame, comparisons: pd.DataFrame) -> list[Section]:
    """The sections of a run, in order."""
    shown = ordinary(results)
    made = [section(shown, comparisons) for section in _ORDINARY]
    return [*(section for section in made if section is not None), *beyond_claims(results, comparisons)]


def beyond_claims(results: pd.DataFrame, comparisons: pd.DataFrame) -> list[Section]:
    """The sections whose findings no claim tells: salience, doses, and the map of where it pays."""
    made = [section(results, comparisons) for section in _BEYOND_CLAIMS]
    return [section for section in made if section is not None]
