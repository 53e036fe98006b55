import sys

import pytest

from monosem.core.errors import InputError
from monosem.report.tensorboard import TensorBoardRecorder, training_curves


def test_without_tensorboard_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'monosem\[track\]'"):
        TensorBoardRecorder(tmp_path)


def scalars(folder):
    """{name: {step: value}} as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_epoch_s_readings_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    recorder = TensorBoardRecorder(tmp_path / "tensorboard")
    recorder.record("stage made", stage="x", seconds=1.0)
    for epoch in (1, 2, 3):
        recorder.record("epoch", of="simclr", pair=0, epoch=epoch, loss=5.0 / epoch, note="words")
        recorder.record("epoch", of="ncl", pair=1, epoch=epoch, loss=6.0 / epoch, active_dimensions=7)
    # Readable while the run goes on.
    assert scalars(tmp_path / "tensorboard" / "pair-1-simclr") == {
        "loss": {1: 5.0, 2: 2.5, 3: pytest.approx(5 / 3)}
    }
    recorder.close()
    assert scalars(tmp_path / "tensorboard" / "pair-2-ncl")["active_dimensions"] == {1: 7.0, 2: 7.0, 3: 7.0}
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {"pair-1-simclr", "pair-2-ncl"}

    # The run was interrupted in epoch 3 and goes on from a checkpoint after epoch 2.
    later = TensorBoardRecorder(tmp_path / "tensorboard")
    for epoch in (3, 4):
        later.record("epoch", of="simclr", pair=0, epoch=epoch, loss=1.0)
    later.close()
    assert scalars(tmp_path / "tensorboard" / "pair-1-simclr")["loss"] == {1: 5.0, 2: 2.5, 3: 1.0, 4: 1.0}


def test_curves_are_written_only_where_they_are_wanted(tmp_path):
    with training_curves(tmp_path, wanted=False) as keep:
        keep("epoch", of="ncl", pair=0, epoch=1, loss=1.0)
    assert not list(tmp_path.iterdir())
    with training_curves(tmp_path, wanted=True) as keep:
        keep("epoch", of="ncl", pair=0, epoch=1, loss=1.0)
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["pair-1-ncl"]
