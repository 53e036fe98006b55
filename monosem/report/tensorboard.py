"""The readings of training as event files that TensorBoard shows while a run goes on (extra `track`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monosem.core.errors import InputError
from monosem.experiments.run import Keep, forget


@contextmanager
def training_curves(run: Path, wanted: bool) -> Iterator[Keep]:
    """What keeps a run's readings under RUN/tensorboard for as long as the block lasts, if that is wanted.

    Raises:
        InputError: it is, and TensorBoard is not installed.
    """
    if not wanted:
        yield forget
        return
    recorder = TensorBoardRecorder(run / "tensorboard")
    try:
        yield recorder.record
    finally:
        recorder.close()


class TensorBoardRecorder:
    """Writes readings to `folder`: one of TensorBoard's runs for each pair and encoder, a chart a reading.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # seconds to import, and not always there
        except ImportError:
            raise InputError("--track needs TensorBoard: pip install 'monosem[track]'") from None
        self._new_writer = SummaryWriter
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def record(self, event: str, **values: Any) -> None:
        """Keep the readings of an "epoch": `of` what, of which `pair`, which `epoch`; ignore all else.

        An epoch that is trained again after an interruption takes the place of what was written before.
        """
        if event != "epoch" or not {"of", "epoch"} <= values.keys():
            return
        name, epoch = f"pair-{values.get('pair', 0) + 1}-{values['of']}", int(values["epoch"])
        if name not in self._writers:
            # Charts of an interrupted run end where this one goes on.
            self._writers[name] = self._new_writer(str(self._folder / name), purge_step=epoch)
        for key, value in values.items():
            if key not in ("pair", "epoch") and isinstance(value, int | float):
                self._writers[name].add_scalar(key, value, epoch)
        self._writers[name].flush()

    def close(self) -> None:
        """Finish the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
