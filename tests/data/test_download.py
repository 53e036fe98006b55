"""Downloads, against a server on this machine."""

import functools
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from monosem.core.errors import InputError, MonosemError
from monosem.data.download import fetch_from_archive


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which its files are served."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def write_archive(path: Path, files: dict[str, bytes]) -> str:
    """A .tar.gz of these files; its md5."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_only_the_files_asked_for_arrive(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    md5 = write_archive(
        folder / "a.tar.gz", {"set/train": b"1", "set/meta": b"2", "../../evil": b"3", "x": b"4"}
    )
    target = tmp_path / "data" / "set"
    fetch_from_archive(f"{address}/a.tar.gz", md5, ["set/train", "set/meta"], target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"train": b"1", "meta": b"2"}
    assert not list(tmp_path.rglob("evil"))


def test_a_wrong_md5_leaves_nothing_behind(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    write_archive(folder / "a.tar.gz", {"set/train": b"1"})
    with pytest.raises(InputError, match="the download's md5 is not 00000000000000000000000000000000"):
        fetch_from_archive(f"{address}/a.tar.gz", "0" * 32, ["set/train"], tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def test_an_archive_that_lacks_a_file_or_is_none_is_refused(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    md5 = write_archive(folder / "a.tar.gz", {"set/train": b"1"})
    with pytest.raises(InputError, match="holds no file set/test"):
        fetch_from_archive(f"{address}/a.tar.gz", md5, ["set/test"], tmp_path / "set")
    (folder / "b.tar.gz").write_bytes(b"not an archive")
    md5 = hashlib.md5(b"not an archive").hexdigest()
    with pytest.raises(InputError, match="holds no file set/train"):
        fetch_from_archive(f"{address}/b.tar.gz", md5, ["set/train"], tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def test_a_link_in_the_place_of_a_file_is_not_followed(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("set/train")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    md5 = hashlib.md5((folder / "a.tar.gz").read_bytes()).hexdigest()
    with pytest.raises(InputError, match="holds no file set/train"):
        fetch_from_archive(f"{address}/a.tar.gz", md5, ["set/train"], tmp_path / "set")


def test_a_missing_page_is_a_fault_of_the_network(served: tuple[Path, str], tmp_path: Path) -> None:
    address = served[1]
    with pytest.raises(MonosemError, match=r"none\.tar\.gz: cannot be downloaded"):
        fetch_from_archive(f"{address}/none.tar.gz", "0" * 32, ["set/train"], tmp_path / "set")


def test_an_address_nobody_can_fetch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an address that can be downloaded"):
        fetch_from_archive("carrier-pigeon://x/a.tar.gz", "0" * 32, ["set/train"], tmp_path / "set")
