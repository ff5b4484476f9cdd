"""Files that are written whole or not at all, whoever writes them."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from small_disks import fill, mounted

from bnsweep.analysis.queries import Column
from bnsweep.analysis.result import Result
from bnsweep.cli.delivery import deliver
from bnsweep.cli.launch import launch
from bnsweep.errors import StoreUnwritableError
from bnsweep.paths import whole
from bnsweep.store.export import write_files
from bnsweep.store.store import Store

ANSWER = Result((Column("a"),), pa.table({"a": range(10_000)}), False, "SELECT a")


def launched(path: Path) -> None:
    words = ["quickstart", "--target", "slurm", "--store", "/srv/store", "--out", str(path)]
    CliRunner().invoke(launch, words, catch_exceptions=False)


def exported(path: Path) -> None:
    store = Store.open_or_create(path.parent.parent / "store")
    write_files(store, path.parent, [(path.name, b"x" * 100_000, {})])


WRITERS = {
    "csv": lambda path: deliver(ANSWER, "csv", path),
    "json": lambda path: deliver(ANSWER, "json", path),
    "parquet": lambda path: deliver(ANSWER, "parquet", path),
    "launch": launched,
    "export": exported,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_what_was_there(tmp_path, write):
    with mounted(tmp_path / "disk", "64k") as disk:
        (disk / "out.txt").write_text("of before")
        ballast = fill(disk)
        with pytest.raises(StoreUnwritableError, match=r"cannot write .*out\.txt: .*No space left.* put this right or"):
            write(disk / "out.txt")
        ballast.unlink()
        assert [path.name for path in disk.iterdir()] == ["out.txt"]
        assert (disk / "out.txt").read_text() == "of before"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_who_is_interrupted_leaves_what_was_there(tmp_path, error):
    def write():
        with whole(tmp_path / "out") as place:
            place.write_text("half")
            raise error

    (tmp_path / "out").write_text("of before")
    with pytest.raises((KeyboardInterrupt, StoreUnwritableError), match="^$|Input/output error; put this right"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "of before"


def test_a_file_keeps_its_permissions_and_a_link_its_file(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("of before")
    real.chmod(0o640)
    link.symlink_to("real")
    with whole(link) as place:
        place.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_its_folder_made_and_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").write_text("")
    path = tmp_path / "a" / "b" / ("é" * 127)  # 254 bytes: names have 255
    with whole(path) as place:
        place.write_text("new")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path):
    (tmp_path / "out").touch(mode=0o400)
    with pytest.raises(StoreUnwritableError, match="Permission denied"), whole(tmp_path / "out") as place:
        place.write_text("new")


def test_a_pipe_is_written_itself(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    deliver(ANSWER, "csv", tmp_path / "pipe")
    reader.join(30)
    assert read[0].splitlines()[:3] == ["a", "0", "1"]
    assert (tmp_path / "pipe").is_fifo()


def test_what_the_shell_has_opened_is_written_itself(tmp_path):
    """Others write to it too."""
    code = "import sys; from pathlib import Path; from bnsweep.paths import whole\n"
    code += "with whole(Path('/dev/stdout')) as place: place.write_text('ours\\n')"
    with (tmp_path / "log").open("a") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
        log.write("theirs\n")
    assert (tmp_path / "log").read_text() == "ours\ntheirs\n"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
