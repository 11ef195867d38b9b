"""Time and peak memory per stage for volumes of clinical sizes, by command line and by service.

    python -m bench.sizes

The heads are synthesised on a coarse grid and interpolated to the size. The service's archive is Orthanc.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import requests
from scipy import ndimage

from bench.parts import ROOT, Orthanc, free_port
from bench.service import made
from bench.viewer import Embedded
from orthanc.archive import open_archive
from settings import load
from unetr.synthesis import metastases
from unetr.synthesis.phantom import SeriesOptions, to_instances

# Slices, rows, columns.
SIZES = ((176, 256, 256), (200, 512, 512), (300, 1024, 1024))
COARSE_SHAPE, COARSE_MM = (176, 256, 256), (1.0, 0.9, 0.9)
SEED = 2026
JOB_LIMIT_S = 600.0


def head(shape: tuple[int, int, int]) -> hd.Volume:
    """Return the head of SEED, uint16 (slice, row, column), resampled to a shape in its field of view."""
    coarse = metastases.head(metastases.grid(COARSE_SHAPE, COARSE_MM), SEED).image
    factors = np.array(shape) / COARSE_SHAPE
    if (factors == 1.0).all():
        return coarse
    levels = np.round(coarse.array / coarse.array.max() * 4000.0).astype(np.uint16)
    array = ndimage.zoom(levels, factors, order=1, grid_mode=True, mode="nearest")
    affine = coarse.affine.copy()
    affine[:3, :3] = affine[:3, :3] / factors
    affine[:3, 3] = (coarse.affine @ [*(0.5 / factors - 0.5), 1.0])[:3]
    return hd.Volume(array, affine, "PATIENT")


def by_command_line(study: Path, out: Path) -> dict[str, Any]:
    """Run segmentation.py; return the document that it wrote, with the seconds of the whole process."""
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "segmentation.py"), str(study), "--out", str(out)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    document: dict[str, Any] = json.loads((out / "lesions.json").read_text())
    return document | {"whole_s": time.perf_counter() - started}


def by_service(instances: list[Any], folder: Path) -> dict[str, Any]:
    """Store the study in Orthanc and segment it; return the job's document, with the seconds of the job."""
    orthanc = Orthanc(made(folder / "orthanc"))
    orthanc.start()
    variables = {
        "DATA_DIR": str(folder / "data"),
        "DICOMWEB_URL": orthanc.url,
        "DICOMWEB_USER": orthanc.user,
        "DICOMWEB_PASSWORD": orthanc.password,
        "PORT": str(free_port()),
    }
    service = Embedded(made(folder / "api"), variables)
    try:
        service.start()
        settings = load(**{name.lower(): value for name, value in variables.items()})
        open_archive(settings).store(instances)
        header = {"Authorization": f"Bearer {settings.first_token_path.read_text().strip()}"}
        started = time.perf_counter()
        study = instances[0].StudyInstanceUID
        job = requests.post(f"{service.url}/segmentation/{study}", headers=header, timeout=60).json()
        while job["state"] not in {"done", "failed"}:
            assert time.perf_counter() - started < JOB_LIMIT_S, f"still {job['state']}, {job['stage']}"
            time.sleep(0.5)
            job = requests.get(f"{service.url}/jobs/{job['id']}", headers=header, timeout=60).json()
        assert job["state"] == "done", job["error"]
        seconds = time.perf_counter() - started
        document: dict[str, Any] = requests.get(
            service.url + job["result"], headers=header, timeout=60
        ).json()
        with sqlite3.connect(settings.data_dir / "metscope.sqlite") as database:
            ((peak_mb,),) = database.execute("SELECT peak_memory_mb FROM segmentations").fetchall()
        return document | {"whole_s": seconds, "whole_mb": peak_mb}
    finally:
        service.stop()
        orthanc.stop()


def row(name: str, document: dict[str, Any]) -> str:
    """Return one line of the table: seconds and, where known, peak MB by stage."""
    peaks = document.get("peak_memory_mb") or {}
    stages = ", ".join(
        f"{stage} {seconds:.1f} s" + (f" {peaks[stage]:.0f} MB" if stage in peaks else "")
        for stage, seconds in document["timings_s"].items()
    )
    peak_mb = document.get("whole_mb") or max(peaks.values())
    whole = f"{document['whole_s']:.0f} s, peak {peak_mb:.0f} MB"
    return f"{name}: {whole}, {len(document['lesions'])} lesions; {stages}"


def main() -> None:
    argparse.ArgumentParser(description="Measure time and memory for volumes of clinical sizes.").parse_args()
    for shape in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            instances = to_instances(head(shape), SeriesOptions())
            study = made(Path(folder) / "study")
            for number, instance in enumerate(instances):
                instance.save_as(study / f"{number:04}.dcm", enforce_file_format=True)
            size = "{1} x {2} x {0}".format(*shape)
            print(row(f"{size}, command line", by_command_line(study, Path(folder) / "out")), flush=True)
            print(row(f"{size}, service", by_service(instances, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
