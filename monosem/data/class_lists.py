"""Which class folders of an image folder are taken: ImageNet-100's, or those of a file."""

from importlib import resources
from pathlib import Path

from monosem.core.errors import InputError


def imagenet100_classes() -> list[str]:
    """WordNet ids of ImageNet-100, sorted (the choice of Tian et al., Contrastive Multiview Coding, 2020)."""
    return resources.files("monosem.data").joinpath("imagenet100.txt").read_text("utf-8").split()


def read_class_list(path: Path) -> list[str]:
    """The names in a file with one a line; what follows a tab is a comment.

    Raises:
        InputError: the file cannot be read or names no class.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the list of classes cannot be read ({error})") from None
    names = [line.partition("\t")[0].strip() for line in text.splitlines()]
    chosen = [name for name in names if name]
    if not chosen:
        raise InputError(f"{path}: lists no classes; write the name of one class folder a line")
    return chosen
