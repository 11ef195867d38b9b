"""Fetch the brain tumours of the Medical Segmentation Decathlon (Task01, 484 labelled gliomas, 7 GB).

    python -m unetr download_msd --out FOLDER

FOLDER/Task01_BrainTumour appears only when it is complete. Until then the received data is a .part file in
FOLDER, from which the same command resumes after an interruption. URL and MD5 are those of MONAI's
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

# Bytes written at a time: an interruption loses at most one block.
BLOCK = 1 << 16
GIB = 1 << 30
TIMEOUT_S = (10.0, 60.0)
# Pauses before each retry of a broken connection; they restart after a connection that delivered data.
PAUSES_S = (1.0, 5.0, 30.0)
OK, PARTIAL, UNSATISFIABLE = 200, 206, 416
# Statuses of a server that is busy or temporarily unavailable.
TRANSIENT_STATUSES = {429, 500, 502, 503, 504}
# The archive and its unpacked content need room at the same time.
COPIES = 2


@dataclass(frozen=True)
class DatasetArchive:
    """A tar file at a URL that contains the folder ``name``. md5: of the file, hexadecimal."""

    name: str
    url: str
    md5: str


TASK01 = DatasetArchive(
    "Task01_BrainTumour",
    "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task01_BrainTumour.tar",
    "240a19d752f0d9e9101544901065d872",
)


class _Interrupted(Exception):
    """Raised when a transient fault interrupts the transfer; the file keeps what has arrived."""


def download(archive: DatasetArchive, out: Path, pauses_s: tuple[float, ...] = PAUSES_S) -> Path:
    """Return the archive's folder below ``out``, fetched and unpacked unless it exists.

    Raises: DownloadFailed if the server does not send the file or sends another one (which is deleted), or if
    there is not enough disk space.
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


def _fetch(archive: DatasetArchive, part: Path, pauses_s: tuple[float, ...]) -> None:
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


def _go_on(archive: DatasetArchive, part: Path) -> None:
    """Fetch the missing rest of the file. Raises: _Interrupted, DownloadFailed."""
    try:
        with requests.get(
            archive.url,
            headers={"Range": f"bytes={_size(part)}-", "Accept-Encoding": "identity"},
            stream=True,
            timeout=TIMEOUT_S,
        ) as answer:
            if answer.status_code == UNSATISFIABLE and _size(part) > 0:
                # Nothing is left to fetch; the checksum shows whether the file is correct.
                return
            if answer.status_code in TRANSIENT_STATUSES:
                raise _Interrupted(f"the server answered HTTP {answer.status_code}")
            if answer.status_code not in (OK, PARTIAL):
                raise DownloadFailed(f"{archive.url} answered HTTP {answer.status_code}.")
            _receive(archive, answer, part)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Interrupted(f"the connection broke ({type(error).__name__})") from error
    except requests.RequestException as error:
        raise DownloadFailed(f"{archive.url} cannot be fetched: {type(error).__name__}.") from error


def _receive(archive: DatasetArchive, answer: requests.Response, part: Path) -> None:
    # A server without range support sends the file from its beginning.
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


def _check_room(folder: Path, archive: DatasetArchive, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadFailed(
            f"{archive.name} needs {needed / GIB:.1f} GiB more to be unpacked; {folder} has "
            f"{free / GIB:.1f} GiB."
        )


def _verify(archive: DatasetArchive, part: Path) -> None:
    with part.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        part.unlink()
        raise DownloadFailed(f"What {archive.url} sent has the MD5 {md5}, not {archive.md5}; it was deleted.")


def _unpack(archive: DatasetArchive, whole: Path, folder: Path) -> None:
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
    print(f"Fetching {TASK01.url}; you can interrupt it: the same command resumes where it stopped.")
    try:
        folder = download(TASK01, options.out)
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    print(
        f"{folder} is complete. To inspect it: python -m unetr explore {folder} --layout msd --out data-sheet"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
