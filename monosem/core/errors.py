"""The errors a user meets, and the exit code each one ends the command with."""


class MonosemError(Exception):
    """A fault of ours or of the machine (disk full, device lost): exit code 1."""

    exit_code = 1


class InputError(MonosemError, ValueError):
    """The user's input is at fault: exit code 2. The message is one line: what, where, what to do."""

    exit_code = 2


class Paused(MonosemError):
    """The time given by `--stop-after` is up and the state is saved: exit code 75, resumable."""

    exit_code = 75


INTERRUPTED_EXIT_CODE = 130


def first_line(error: BaseException) -> str:
    """What a foreign error says, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
