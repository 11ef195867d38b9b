"""Fetch the brain tumours of the Medical Segmentation Decathlon (Task01, 484 labelled gliomas, 7 GB).

    python -m unetr download_msd --out FOLDER

FOLDER/Task01_BrainTumour is there when it is whole, and not before: what has arrived waits in FOLDER as a
.part file, with which the same command goes on after a break. The address and the MD5 are those of MONAI's
DecathlonDataset (monai/apps/datasets.py). Licence: CC-BY-SA 4.0 (medicaldecathlon.com).
"""

import argparse
import hashlib
import shutil
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from errors import DownloadFailed, MetScopeError

# What a break loses of what had come, at most.
BLOCK = 1 << 16
GIB = 1 << 30
TIMEOUT_S = (10.0, 60.0)
# Pauses before a connection that broke is tried again; one that brought something begins them anew.
PAUSES_S = (1.0, 5.0, 30.0)
OK, PARTIAL, UNSATISFIABLE = 200, 206, 416
# What a server says that is busy or under repair.
PASSING_STATUSES = {429, 500, 502, 503, 504}
# The archive, and what is in it, beside each other.
COPIES = 2


@dataclass(frozen=True)
class Archive:
    """A tar file at a URL that holds the folder ``name``. md5: of the file, hexadecimal."""

    name: str
    url: str
    md5: str


TASK01 = Archive(
    "Task01_BrainTumour",
    "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task01_BrainTumour.tar",
    "240a19d752f0d9e9101544901065d872",
)


class _Interrupted(Exception):
    """A passing fault; what had arrived lies in the file."""


def download(archive: Archive, out: Path, pauses_s: tuple[float, ...] = PAUSES_S) -> Path:
    """The archive's folder below ``out``, fetched and unpacked unless it is there.

    Raises: DownloadFailed where the server does not give the file, gives another one (which is deleted), or
    there is no room for it.
    """
    folder = out / archive.name
    if folder.exists():
        return folder
    out.mkdir(parents=True, exist_ok=True)
    whole, part = out / f"{archive.name}.tar", out / f"{archive.name}.tar.part"
    if not whole.exists():
        _fetch(archive, part, pauses_s)
        _verify(archive, part)
        part.rename(whole)
    _unpack(archive, whole, folder)
    whole.unlink()
    return folder


def _fetch(archive: Archive, part: Path, pauses_s: tuple[float, ...]) -> None:
    pauses = iter(pauses_s)
    while True:
        before = _size(part)
        try:
            _go_on(archive, part)
        except _Interrupted as error:
            if _size(part) > before:
                pauses = iter(pauses_s)
            pause_s = next(pauses, None)
            if pause_s is None:
                raise DownloadFailed(f"{archive.name} stopped after {_size(part)} bytes: {error}.") from error
            time.sleep(pause_s)
        else:
            return


def _go_on(archive: Archive, part: Path) -> None:
    """Fetch what the file does not have yet. Raises: _Interrupted, DownloadFailed."""
    try:
        with requests.get(
            archive.url,
            headers={"Range": f"bytes={_size(part)}-", "Accept-Encoding": "identity"},
            stream=True,
            timeout=TIMEOUT_S,
        ) as answer:
            if answer.status_code == UNSATISFIABLE and _size(part) > 0:
                # There is nothing beyond what we have; the checksum says whether it is the file.
                return
            if answer.status_code in PASSING_STATUSES:
                raise _Interrupted(f"the server answered HTTP {answer.status_code}")
            if answer.status_code not in (OK, PARTIAL):
                raise DownloadFailed(f"{archive.url} answered HTTP {answer.status_code}.")
            _receive(archive, answer, part)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Interrupted(f"the connection broke ({type(error).__name__})") from error
    except requests.RequestException as error:
        raise DownloadFailed(f"{archive.url} cannot be fetched: {type(error).__name__}.") from error


def _receive(archive: Archive, answer: requests.Response, part: Path) -> None:
    # A server that knows no ranges sends the file from its beginning.
    begun = _size(part) if answer.status_code == PARTIAL else 0
    total = begun + int(answer.headers.get("Content-Length", 0))
    _check_room(part.parent, archive, COPIES * total - begun)
    with (
        part.open("ab" if begun else "wb") as file,
        tqdm(total=total, initial=begun, unit="B", unit_scale=True, disable=None, desc=archive.name) as bar,
    ):
        for block in answer.iter_content(BLOCK):
            file.write(block)
            bar.update(len(block))


def _check_room(folder: Path, archive: Archive, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadFailed(
            f"{archive.name} takes {needed / GIB:.1f} GiB more while it is unpacked; {folder} has "
            f"{free / GIB:.1f} GiB."
        )


def _verify(archive: Archive, part: Path) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        part.unlink()
        raise DownloadFailed(
            f"What {archive.url} sent has the MD5 {found}, not {archive.md5}; it was deleted."
        )


def _unpack(archive: Archive, whole: Path, folder: Path) -> None:
    unfinished = whole.with_name(f".{archive.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with tarfile.open(whole) as tar:
            tar.extractall(unfinished, filter="data")
        (unfinished / archive.name).rename(folder)
    except (tarfile.TarError, OSError) as error:
        raise DownloadFailed(f"{whole} cannot be unpacked: {error}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m unetr download_msd", description="Fetch Task01_BrainTumour of the Decathlon (7 GB)."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to put its folder")
    options = parser.parse_args(arguments)
    print(f"Fetching {TASK01.url}; interrupt it if you like, the same command goes on where it stopped.")
    try:
        folder = download(TASK01, options.out)
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    print(f"{folder} is whole. Look at it: python -m unetr explore {folder} --layout msd --out data-sheet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
