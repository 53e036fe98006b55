import json

import numpy as np
import pytest

from monosem.report.epochs import read_epochs
from monosem.report.figure_style import COLOURS
from monosem.report.findings import pretraining_in_words
from monosem.report.pretraining_figure import READINGS, encoder_epochs, pretraining_figure


def epoch(of, number, pair=0, **readings):
    return json.dumps({"event": "epoch", "of": of, "pair": pair, "epoch": number, **readings})


@pytest.fixture
def run(tmp_path):
    """Write the lines of a log and return the run's folder."""

    def write(*lines, end="\n"):
        (tmp_path / "log.jsonl").write_text("\n".join(lines) + end)
        return tmp_path

    return write


def test_an_epoch_trained_again_counts_once_as_it_was_last(run):
    lines = [epoch("simclr", 1, loss=3.0), epoch("simclr", 2, loss=2.0), epoch("ncl", 2, loss=9.0)]
    table = read_epochs(run(*lines, epoch("simclr", 2, loss=2.5), epoch("simclr", 3, loss=1.0)))
    simclr = table[table["of"] == "simclr"]
    assert simclr["epoch"].tolist() == [1, 2, 3]
    assert simclr["loss"].tolist() == [3.0, 2.5, 1.0]
    assert table[table["of"] == "ncl"]["loss"].tolist() == [9.0]


@pytest.mark.parametrize("torn", ['{"event": "epoch", "of": "sim', "\x00\x00", "[1, 2]", "7", ""])
def test_torn_and_foreign_lines_are_passed_over(run, torn):
    other = ['{"event": "stage made", "epoch": 3}', '{"event": "epoch", "epoch": 1}', epoch("ncl", "x")]
    table = read_epochs(run(*other, torn, epoch("simclr", 1, loss=3.0, note="words", knn=True), torn, end=""))
    assert len(table) == 1
    assert set(table.columns) == {"of", "pair", "epoch", "loss"}


def test_pairs_are_kept_apart(run):
    table = read_epochs(run(epoch("simclr", 1, pair=0, loss=3.0), epoch("simclr", 1, pair=1, loss=4.0)))
    assert table["loss"].tolist() == [3.0, 4.0]


def test_nothing_to_read_is_nothing_to_show(run, tmp_path):
    assert read_epochs(tmp_path).empty
    assert encoder_epochs(tmp_path).empty
    assert pretraining_in_words(encoder_epochs(tmp_path)) == ""
    assert encoder_epochs(run(epoch("sae", 1, loss=0.1))).empty
    assert encoder_epochs(run(epoch("simclr", 1, dead_share=0.1))).empty


def test_the_figure_draws_every_reading_of_every_encoder(paper_run):
    epochs = encoder_epochs(paper_run)
    figure = pretraining_figure(epochs)
    drawn = {axes.get_title("left"): axes for axes in figure.axes if axes.axison}
    assert list(drawn) == list(READINGS.values())
    for name, title in READINGS.items():
        by_colour = {line.get_color(): line for line in drawn[title].lines}
        for of in ("simclr", "ncl"):
            expected = epochs[epochs["of"] == of].dropna(subset=[name])
            line = by_colour[COLOURS[of]]
            np.testing.assert_allclose(line.get_xdata(), expected["epoch"])
            np.testing.assert_allclose(line.get_ydata(), expected[name])
    assert len(drawn["kNN accuracy"].lines[0].get_xdata()) == 4


def test_readings_that_were_not_taken_have_no_panel(run):
    figure = pretraining_figure(encoder_epochs(run(epoch("ncl", 1, loss=3.0, knn_accuracy=0.2))))
    assert [axes.get_title("left") for axes in figure.axes if axes.axison] == ["loss", "kNN accuracy"]


def test_a_diverged_loss_is_drawn_as_far_as_it_was_finite(run):
    folder = run(epoch("ncl", 1, loss=3.0), epoch("ncl", 2, loss=float("nan")))
    (line,) = pretraining_figure(encoder_epochs(folder)).axes[0].lines
    assert line.get_ydata().tolist() == [3.0]


def test_the_end_is_told_in_words_over_pairs(run):
    lines = [epoch("simclr", 2, pair=pair, loss=3.0 + pair, active_dimensions=2048.0) for pair in (0, 1)]
    said = pretraining_in_words(encoder_epochs(run(*lines))).replace("\N{NO-BREAK SPACE}", " ")
    assert said == "SimCLR after 2 epochs: loss 3.5, active dimensions 2,048."
