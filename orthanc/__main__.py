"""The archive step by step: check it, find studies, list the series of a study, fetch them.

    python -m orthanc check
    python -m orthanc find --date 20250301-20250331 --modality MR
    python -m orthanc series STUDY
    python -m orthanc fetch --out FOLDER STUDY ...
    python -m orthanc fetch --out FOLDER --patient ID --model MODEL

Each step can be run alone. The archive is the one that the settings name (DICOMWEB_URL in .env). Patient IDs
are shown on this terminal only, because they were requested; they are never logged.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import settings
from errors import ArchiveTimeout, ArchiveUnreachable, MetScopeError, RequestError
from imaging import codes
from imaging.frames import text
from imaging.labelled import is_seg, labelled_series
from imaging.sequences import sequence_of
from imaging.series import Candidate, choose, rank
from orthanc.archive import Archive, open_archive
from orthanc.fetch import Inputs, fetch
from unetr.served import find_spec

# The DICOM attribute of the query, by option.
FILTERS = {"patient": "PatientID", "date": "StudyDate", "modality": "ModalitiesInStudy"}
STUDY_COLUMNS = ("StudyDate", "PatientID", "ModalitiesInStudy", "StudyDescription")


def check(archive: Archive, configuration: settings.Settings) -> None:
    """Print whether the archive answers, and whether it answers a query."""
    print(f"DICOMWEB_URL names {configuration.archive_url}.")
    if configuration.archive_url.startswith("file:"):
        print("It is a folder of DICOM files, which MetScope reads directly, without a server.")
    else:
        user = configuration.dicomweb_user
        print(f"MetScope connects as user {user!r}." if user else "MetScope connects without a user name.")
    started = time.perf_counter()
    archive.check()
    print(f"It is reachable and accepts the connection ({1000 * (time.perf_counter() - started):.0f} ms).")
    today = date.today().strftime("%Y%m%d")
    studies = archive.search_studies(StudyDate=today)
    print(f"It answers queries: {len(studies)} studies of today ({today}).")


def find(archive: Archive, filters: dict[str, str]) -> None:
    """List the studies that match."""
    studies = sorted(archive.search_studies(**filters), key=lambda study: text(study, "StudyDate"))
    print(f"{len(studies)} studies. To inspect one: python -m orthanc series STUDY")
    for study in studies:
        values = [text(study, keyword).replace("\\", ",") or "-" for keyword in STUDY_COLUMNS]
        size = f"{text(study, 'NumberOfStudyRelatedSeries') or '?'} series"
        print("  ".join([*values, size, text(study, "StudyInstanceUID")]))


def show_series(archive: Archive, study_uid: str) -> None:
    """List the series of a study: the sequence of each, whether it can be segmented, and the SEGs of them."""
    series = archive.series_headers(study_uid)
    images = {text(headers[0], "SeriesInstanceUID"): headers for headers in series if not is_seg(headers[0])}
    candidates = rank(images.values())
    print(f"{len(images)} series. Proof of contrast scores most, then T1, thin slices, the whole head.")
    for candidate in candidates:
        headers = images[candidate.series_instance_uid]
        description = candidate.description or "no description"
        print(f"\n{description}  ({candidate.modality}, {len(headers)} instances)")
        print(f"  {candidate.series_instance_uid}")
        print(f"  looks like: {sequence_of(headers) or 'unknown (not T1, T1 post-contrast, T2 or FLAIR)'}")
        if candidate.refused:
            print(f"  not for segmentation: {candidate.message}")
        else:
            print(f"  score {candidate.score:g}: {'; '.join(candidate.reasons)}")
    for header in (header for headers in series for header in headers if is_seg(header)):
        creation_time = f"{text(header, 'ContentDate')} {text(header, 'ContentTime')[:6]}"
        print(f"\nSEG of {creation_time}: {text(header, 'SeriesDescription') or 'no description'}")
        print(f"  labels series {labelled_series(header, series) or '(not stated)'}")
    print(f"\n{_choice(candidates)}")


def _choice(candidates: Sequence[Candidate]) -> str:
    try:
        candidate = choose(candidates)
    except MetScopeError as error:
        return f"MetScope would not segment any of them: {error.message}"
    description = candidate.description or "no description"
    return f"MetScope would segment: {description}, {candidate.series_instance_uid}"


def fetch_studies(archive: Archive, studies: Mapping[str, Inputs], out: Path, series_uid: str | None) -> int:
    """Fetch the studies one by one; report a study that is refused, and continue with the next.

    studies: the inputs to fetch, by Study Instance UID. Returns the exit code of the first refusal, or 0.
    Raises: ArchiveUnreachable, ArchiveTimeout.
    """
    exit_code = 0
    for number, (study_uid, inputs) in enumerate(studies.items(), start=1):
        print(f"{number}/{len(studies)} {study_uid}")
        try:
            for series in fetch(archive, study_uid, out, series_uid, inputs):
                kind = "SEG" if series.labels else "images"
                summary = f"{series.description or 'no description'}, {series.images} instances"
                print(f"  {kind}: {summary}{'' if series.new else ' (already there)'}")
        except (ArchiveUnreachable, ArchiveTimeout):
            raise
        except MetScopeError as error:
            print(f"  {error.code}: {error.message}", file=sys.stderr)
            exit_code = exit_code or error.exit_code
    print(f"To inspect them: python -m unetr explore {out} --layout dicom --out data-sheet")
    return exit_code


def wanted_studies(archive: Archive, options: argparse.Namespace, inputs: Inputs) -> dict[str, Inputs]:
    """Return the studies that the options name or a query finds, with the inputs to fetch of each.

    If the options name a patient, sequences that a study lacks are looked for in the patient's other studies.
    """
    inputs_by_study = dict.fromkeys(
        [*options.studies, *(_read_uids(options.list) if options.list else ())], inputs
    )
    if filters := _filters(options):
        for study in archive.search_studies(**filters):
            inputs_by_study[text(study, "StudyInstanceUID")] = inputs
    if options.patient:
        patients: dict[str, list[str]] = {}
        for study in archive.search_studies(PatientID=options.patient):
            patients.setdefault(text(study, "PatientID"), []).append(text(study, "StudyInstanceUID"))
        for studies in patients.values():
            for uid in inputs_by_study.keys() & set(studies):
                inputs_by_study[uid] = replace(inputs, elsewhere=[other for other in studies if other != uid])
    return inputs_by_study


def _inputs_of(configuration: settings.Settings, model_id: str | None) -> Inputs:
    """Return the inputs of a model. Raises: ModelNotFound, ModelSpecInvalid."""
    spec = find_spec(configuration, model_id)
    head = spec.anatomy is not None and spec.anatomy.value == codes.BRAIN.value
    return Inputs(spec.inputs, head)


def _read_uids(file: Path) -> Iterator[str]:
    """Yield the Study Instance UIDs of a file, the first word of each line; lines with # are comments."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} cannot be read as a list of studies: {error}.") from error
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.split()[0].strip(",;")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orthanc", description="The archive, step by step.")
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("check", help="check that the archive is reachable and answers")
    finding = steps.add_parser("find", help="list studies")
    shown = steps.add_parser("series", help="list the series of a study and what MetScope recognises in each")
    shown.add_argument("study", metavar="STUDY", help="a Study Instance UID")
    fetching = steps.add_parser("fetch", help="download series and the SEGs that label them, as DICOM files")
    fetching.add_argument("studies", nargs="*", metavar="STUDY", help="Study Instance UIDs")
    fetching.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    fetching.add_argument(
        "--series", metavar="UID", help="default: the series that SEGs label, otherwise the best candidate"
    )
    fetching.add_argument(
        "--model", metavar="ID", help="fetch all inputs of this model; default: of the default model"
    )
    fetching.add_argument("--list", type=Path, metavar="FILE", help="Study Instance UIDs, one per line")
    for step in (finding, fetching):
        step.add_argument("--patient", metavar="ID", help="PatientID, with * and ?")
        step.add_argument("--date", metavar="DATE", help="20250314, or a range: 20250301-20250331")
        step.add_argument("--modality", metavar="MR", help="studies with such a series")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; return the exit code: 0 done, 2 usage, 3 images refused, 4 archive, 5 model."""
    parser = _parser()
    options = parser.parse_args(arguments)
    filters = _filters(options)
    if options.step == "find" and not filters:
        parser.error("specify the studies with --patient, --date or --modality")
    if options.step == "fetch" and not (filters or options.studies or options.list):
        parser.error("specify the studies by UID, or with --list, --patient, --date or --modality")
    try:
        configuration = settings.load()
        return _run(options, open_archive(configuration), configuration)
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code


def _filters(options: argparse.Namespace) -> dict[str, str]:
    """Return the filters of the query, by DICOM keyword."""
    values = {keyword: getattr(options, name, None) for name, keyword in FILTERS.items()}
    return {keyword: value for keyword, value in values.items() if value}


def _run(options: argparse.Namespace, archive: Archive, configuration: settings.Settings) -> int:
    if options.step == "check":
        check(archive, configuration)
    elif options.step == "find":
        find(archive, _filters(options))
    elif options.step == "series":
        show_series(archive, options.study)
    else:
        studies = wanted_studies(archive, options, _inputs_of(configuration, options.model))
        return fetch_studies(archive, studies, options.out, options.series)
    return 0


if __name__ == "__main__":
    sys.exit(main())
