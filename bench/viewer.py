"""The viewer with all its servers on this machine: `make viewer`.

Orthanc, the API with its worker, and nginx with OHIF on one origin, in a folder that is removed at the end,
with a synthetic study loaded. Ctrl-C stops them. The browser tests run against the same servers.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import highdicom as hd
import requests
from pydicom import Dataset

from bench.parts import ROOT, Nginx, Orthanc, Part, PartMissing, free_port
from bench.service import Ours, made
from orthanc.archive import open_archive
from settings import Settings, load
from unetr.synthesis import metastases
from unetr.synthesis.phantom import SeriesOptions, to_instances

VIEWERS = ROOT / "ohif" / "viewers"
OLDEST, NEWEST = (
    list(json.loads((ROOT / "ohif" / "package.json").read_text())["viewers"])[i] for i in (0, -1)
)
PORT, LAST_PORT = 8080, 65535
CHROMIUM = "/usr/bin/chromium"
# WebGL on the CPU, and no connections to the browser's vendor.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
SEED, SHAPE, SPACING_MM = 2026, (176, 256, 256), (1.0, 0.9, 0.9)


class Embedded(Ours):
    """`python api.py`: the API and one worker."""

    @property
    def command(self) -> Sequence[str]:
        return sys.executable, str(ROOT / "api.py")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._variables['PORT']}"

    def worker_pid(self) -> int:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        (pid,) = {int(pid) for path in children for pid in path.read_text().split()}
        return pid

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health/ready", timeout=10).ok
        except requests.RequestException:
            return False


class Site:
    """The running viewer. url: its address for a browser. token: an admin's."""

    def __init__(self, version: str = OLDEST, port: int | None = None, **variables: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="metscope-viewer-"))
        self._parts: list[Part] = []
        self._patients = count(1)
        try:
            self._start(version, port, variables)
        except BaseException:
            self.close()
            raise

    def _start(self, version: str, port: int | None, variables: dict[str, str]) -> None:
        self.orthanc = Orthanc(made(self.folder / "orthanc"))
        self._add(self.orthanc)
        self.variables = {
            "DATA_DIR": str(self.folder / "data"),
            "DICOMWEB_URL": self.orthanc.url,
            "DICOMWEB_USER": self.orthanc.user,
            "DICOMWEB_PASSWORD": self.orthanc.password,
            "ORTHANC_URL": self.orthanc.rest_url,
            "PORT": str(free_port()),
        } | variables
        self.settings: Settings = load(**{name.lower(): value for name, value in self.variables.items()})
        self.service = Embedded(made(self.folder / "api"), self.variables)
        self._add(self.service)
        api = self.service.url.removeprefix("http://")
        self.nginx = Nginx(made(self.folder / "nginx"), api, self.orthanc, VIEWERS / version, port=port)
        self._add(self.nginx)
        self.url = self.nginx.url
        self.token = self.settings.first_token_path.read_text().strip()

    def _add(self, part: Part) -> None:
        self._parts.append(part)
        part.start()

    def add(self, image: hd.Volume, **options: object) -> str:
        """Store a study in Orthanc, of a new patient unless the options name one; return its UID."""
        options = {"patient_id": f"VIEWER-{next(self._patients)}"} | options
        instances = to_instances(image, SeriesOptions(**options))  # type: ignore[arg-type]
        self.store(instances)
        return str(instances[0].StudyInstanceUID)

    def store(self, instances: Sequence[Dataset]) -> None:
        """Store instances in Orthanc."""
        open_archive(self.settings).store(instances)

    def clear(self, study: str) -> None:
        """Delete a study's segmentations and all its objects except the images."""
        for document in self.ask(f"/studies/{study}/segmentations")["segmentations"]:
            address = f"{self.url}/segmentations/{document['id']}"
            requests.delete(address, headers=self._headers, timeout=60).raise_for_status()
        archive = open_archive(self.settings)
        for header in (header for headers in archive.series_headers(study) for header in headers):
            if header.Modality != "MR":
                archive.delete_instance(study, header.SOPInstanceUID)

    def ask(self, path: str) -> Any:
        """GET a path of the API and return the answer's JSON."""
        answer = requests.get(self.url + path, headers=self._headers, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def ask_for(self, path: str, form: dict[str, Any]) -> None:
        """POST a form to the API."""
        requests.post(self.url + path, json=form, headers=self._headers, timeout=60).raise_for_status()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def close(self) -> None:
        for part in reversed(self._parts):
            part.stop()
        shutil.rmtree(self.folder)


def port_to_listen_on(requested: str | None) -> int:
    """Return the requested port; without one the usual port, or a free one if that is taken.

    Raises: PartMissing if the requested port is invalid or taken.
    """
    port = PORT
    if requested is not None:
        if not (requested.isdecimal() and 0 < int(requested) <= LAST_PORT):
            raise PartMissing(f"PORT is {requested!r}. Give a number from 1 to {LAST_PORT}.")
        port = int(requested)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return port
    if requested is not None:
        raise PartMissing(f"Port {port} is taken. Choose another: PORT={port + 1} make viewer.")
    return free_port()


def main() -> int:
    argparse.ArgumentParser(
        description="Run Orthanc, MetScope and the OHIF viewer with a synthetic study until Ctrl-C; the data "
        "is then removed. PORT in the environment chooses the port."
    ).parse_args()
    # SIGTERM, like Ctrl-C, ends the wait below, or the start; the parts that run by then are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print("Starting Orthanc, MetScope and nginx ...", flush=True)
    try:
        site = Site(port=port_to_listen_on(os.environ.get("PORT")))
        try:
            print("Making a synthetic study ...", flush=True)
            study = site.add(metastases.head(metastases.grid(SHAPE, SPACING_MM), SEED).image)
            print(
                f"The study      {site.url}/metscope?StudyInstanceUIDs={study}",
                f"The study list {site.url}/",
                f"Log in with    {site.token}",
                "Ctrl-C stops it and removes its data. Research use only; not for diagnosis.",
                sep="\n",
                flush=True,
            )
            signal.pause()
        finally:
            print("\nStopping ...", flush=True)
            site.close()
    except PartMissing as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
