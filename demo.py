"""The demo: segments a synthetic study on the embedded defaults, stores the SEG and measures the lesions.

    make demo

No server is needed: the archive is a folder and the database a file, both under ``demo/``. The table compares
the results read back from archive and database with the truth that the study was made from.
"""

import argparse
import shutil
import sys
import time
from math import nan
from pathlib import Path

import highdicom as hd
from tqdm import tqdm

import settings
from context import ModelServices, open_services
from db import segmentations
from imaging import seg
from imaging.stack import Stack, to_stack
from lesions.measure import measure
from reports.overlay import save_overlay
from schemas.results import LesionAnswer, SegmentationAnswer
from segmentation import Request, deliver, segment_series
from unetr.evaluation.scores import match
from unetr.synthesis import metastases
from unetr.synthesis.phantom import SeriesOptions, to_instances

FOLDER = Path("demo")
SEED = 2026
SHAPE = (176, 256, 256)
SPACING_MM = (1.0, 0.9, 0.9)


def main() -> None:
    argparse.ArgumentParser(
        description="Segment a synthetic study without any server, and compare the lesions with the truth. "
        f"The folder {FOLDER} and all that it holds is replaced."
    ).parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    configuration = settings.load(
        data_dir=FOLDER, dicomweb_url="", database_url="", broker_url="", model_path=None
    )
    print(f"Creating a synthetic study of {SHAPE[0]} slices (seed {SEED}) ...")
    head = metastases.head(metastases.grid(SHAPE, SPACING_MM), SEED)
    study = to_instances(head.image, SeriesOptions(description="T1 MPRAGE post contrast", contrast=True))

    started = time.perf_counter()
    services = open_services(configuration)
    services.archive.store(study)
    # A fixed path for the README's commands; the archive names its folders by UID.
    first = study[0]
    (FOLDER / "series").symlink_to(Path("archive") / first.StudyInstanceUID / first.SeriesInstanceUID)
    loaded = time.perf_counter()
    request = Request(study[0].StudyInstanceUID)
    segmentation_id = _segment(request, services)
    cold_s = time.perf_counter() - loaded
    document = segmentations.document(services.sessions, segmentation_id)
    second_start = time.perf_counter()
    _segment(Request(request.study_instance_uid, force=True), services)
    warm_s = time.perf_counter() - second_start

    stack = to_stack(study)
    labels = _read_back(services, request.study_instance_uid, document, stack)
    save_overlay(stack.volume, labels, measure(labels, stack.slices), FOLDER / "overlay.png")
    _print_table(head, labels, stack, document)
    print("(true ml: volume of the simulated shape; true mm: long axis measured on its exact mask;")
    print(" sure: the lesion's confidence, or its mean probability where the model has no calibration)")
    for warning in document.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"\nOpened in {loaded - started:.1f} s; first segmentation {cold_s:.1f} s, the next {warm_s:.1f} s."
    )
    print(f"Stages of the first, s: {document.timings_s}")
    print(f"SEG      {_path_of(document)}")
    print(f"Picture  {FOLDER / 'overlay.png'}")
    print(f"Database {FOLDER / 'metscope.sqlite'}")
    print("Research use only. Not for diagnosis.")


def _segment(request: Request, services: ModelServices) -> str:
    with tqdm(total=100, unit="%", disable=None, leave=False) as bar:

        def report(stage: str, fraction: float) -> None:
            bar.set_description(stage)
            bar.update(round(100 * fraction) - bar.n if stage == "predict" else 0)

        segmentation_id = segment_series(request, services, report)
        bar.set_description("store")
        deliver(segmentation_id, services)
    return segmentation_id


def _read_back(
    services: ModelServices, study_instance_uid: str, document: SegmentationAnswer, stack: Stack
) -> hd.Volume:
    """Return the label volume of the SEG as read back from the archive; empty if none was stored."""
    series_instance_uid = document.segmentation.series_instance_uid
    if series_instance_uid is None:
        return stack.volume.with_array((stack.volume.array * 0).astype("int32"))
    stored = services.archive.retrieve_series(study_instance_uid, series_instance_uid)
    labels, _ = seg.read(stored[0], stack)
    return labels


def _path_of(document: SegmentationAnswer) -> str:
    uid = document.segmentation.sop_instance_uid
    return str(next((FOLDER / "archive").rglob(f"*{uid}*"), "none: no lesion was found"))


def _print_table(
    head: metastases.Head, labels: hd.Volume, stack: Stack, document: SegmentationAnswer
) -> None:
    truth = {lesion.number: lesion for lesion in measure(head.labels, stack.slices)}
    lesions = {lesion.number: lesion for lesion in document.lesions}
    outcome = match(head.labels, labels)
    print(
        f"\n{'lesion':28}{'true ml':>9}{'found ml':>10}{'error':>8}"
        f"{'true mm':>9}{'found mm':>10}{'error':>8}{'sure':>7}"
    )
    for lesion in sorted(head.lesions, key=lambda lesion: -lesion.volume_ml):
        true = truth[lesion.number]
        name = f"{lesion.kind}, {lesion.diameter_mm:.1f} mm"
        partner = lesions.get(outcome.partners.get(lesion.number, 0))
        if partner is None or not outcome.found(lesion.number):
            print(f"{'missed: ' + name:28}{lesion.volume_ml:9.3f}{'':18}{true.long_axis_mm:9.1f}")
            continue
        volume_error = partner.volume_ml / lesion.volume_ml - 1
        length_error = partner.long_axis_mm - true.long_axis_mm
        print(
            f"{'found:  ' + name:28}{lesion.volume_ml:9.3f}{partner.volume_ml:10.3f}{volume_error:+8.0%}"
            f"{true.long_axis_mm:9.1f}{partner.long_axis_mm:10.1f}{length_error:+8.1f}{_sureness(partner):7.2f}"
        )
    for number in outcome.false_numbers:
        false = lesions[number]
        name = f"false:  number {number}"
        print(
            f"{name:28}{'':9}{false.volume_ml:10.3f}{'':17}{false.long_axis_mm:10.1f}"
            f"{'':8}{_sureness(false):7.2f}"
        )


def _sureness(lesion: LesionAnswer) -> float:
    """Return the confidence, or without one the mean probability, as the viewer shows it."""
    sureness = lesion.mean_probability if lesion.confidence is None else lesion.confidence
    return nan if sureness is None else sureness


if __name__ == "__main__":
    main()
