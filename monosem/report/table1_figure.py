"""Table 1 as a figure: ours beside the paper's, a panel for each feature set."""

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monosem.experiments.results import BASELINE, METHODS
from monosem.report.figure_style import COLOURS, FAINT, INK, STYLE, marks, new_figure
from monosem.report.table1 import Table1
from monosem.report.wording import feature_name


@rc_context(STYLE)
def table1_figure(table: Table1) -> Figure:
    """Accuracy against the share of wrong labels: ours solid with its 95 % interval, the paper's dashed."""
    figure, panels = new_figure(2.9, ncols=3, sharey=True)
    for axes, features in zip(panels, (BASELINE, *METHODS), strict=True):
        rows = table.rows("accuracy", features)
        papers, ours = rows[rows["paper"].notna()], rows[rows["ours"].notna()]
        colour = COLOURS[features]
        axes.plot(100 * papers["rate"], 100 * papers["paper"], "--", color=colour, linewidth=1.4)
        low, high = 100 * ours["ours_low"], 100 * ours["ours_high"]
        axes.fill_between(100 * ours["rate"], low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(100 * ours["rate"], 100 * ours["ours"], linewidth=1.6, **marks(features))
        axes.set_title(feature_name(features))
        axes.set_xlabel("training labels wrong, %")
        axes.set_xticks(range(0, 100, 20))
        axes.grid(axis="y", color=FAINT)
    panels[0].set_ylabel("test accuracy, %")
    lines = [
        Line2D([], [], color=INK, linewidth=1.6, marker="o", markersize=4.5, label="ours"),
        Line2D([], [], color=INK, linewidth=1.4, linestyle="--", label=f"the paper's, {table.paper.data}"),
    ]
    figure.legend(handles=lines, loc="outside upper right", ncols=2, frameon=False)
    return figure
