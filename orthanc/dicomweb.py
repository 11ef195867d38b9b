"""The archive by DICOMweb (QIDO-RS, WADO-RS, STOW-RS; DICOM PS3.18)."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal
from urllib.parse import quote

from pydicom import Dataset

from errors import (
    ArchiveIncomplete,
    ArchiveRefused,
    DeletionUnavailable,
    SeriesNotFound,
    SeveralPatients,
    StoreFailed,
    StudyNotFound,
)
from imaging import identity
from imaging.files import PIXEL_KEYWORDS
from imaging.frames import MULTI_FRAME, SUPPORTED, text
from imaging.series import UnreadSeries
from orthanc import dicom_json, multipart, part10
from orthanc.replies import JSON, read_instances, read_json, read_lookup, read_object, read_store_answer
from orthanc.transport import BACKOFF_S, RETRYABLE_ERRORS, Params, Transport

logger = logging.getLogger(__name__)

# Any transfer syntax: without it Orthanc answers 500 for JPEG 2000 and transcodes JPEG-LS and RLE.
INSTANCES = 'multipart/related; type="application/dicom"; transfer-syntax=*'
# Paths of Orthanc's own REST API.
PATHS = {"Instance": "instances", "Study": "studies"}
STUDY_FIELDS = [
    "StudyDescription",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
]
# Every MR image has these. A header lacks one if the archive sends it as bulk data or without its VR.
IMAGE_KEYWORDS = ("Rows", "Columns", "PhotometricInterpretation", "BitsAllocated")
PLANE_KEYWORDS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


class DicomwebArchive:
    """An Archive by DICOMweb. Threads must not share one.

    rest: Orthanc's own REST API, because DICOMweb has no deletion; None: nothing can be deleted.
    """

    def __init__(self, transport: Transport, rest: Transport | None = None) -> None:
        self._transport = transport
        self._rest = rest

    def search_studies(self, **filters: str) -> list[Dataset]:
        params: Params = {**filters, "includefield": STUDY_FIELDS}
        return _identified(self._entries("studies", "StudyInstanceUID", params), "StudyInstanceUID")

    def series_headers(self, study_uid: str, series_uids: Collection[str] = ()) -> list[list[Dataset]]:
        series = [
            self._headers(study_uid, entry)
            for entry in self._series_entries(study_uid)
            if not series_uids or text(entry, "SeriesInstanceUID") in series_uids
        ]
        unread = [headers for headers in series if isinstance(headers, UnreadSeries)]
        if unread and len(unread) == len(series):
            raise unread[0].refusal
        return series

    def _series_entries(self, study_uid: str) -> list[Dataset]:
        count = self._series_count(study_uid)
        fields: Params = {"includefield": ["SeriesDescription"]}
        # Stop at the count: an archive that ignores the offset would list all of them again.
        pages = self._entries(_path(study_uid) + "/series", "SeriesInstanceUID", fields)
        entries = list(islice(pages, count))
        if not entries:
            raise StudyNotFound(f"The archive has no study {study_uid}.")
        if count is not None and len(entries) < count:
            raise ArchiveIncomplete(
                f"The archive says that study {study_uid} has {count} series and lists {len(entries)}."
            )
        return _identified(entries, "SeriesInstanceUID")

    def _series_count(self, study_uid: str) -> int | None:
        """Return the number of series that a query states for the study; None if it does not say.

        Raises: StudyNotFound, SeveralPatients.
        """
        params: Params = {"StudyInstanceUID": study_uid, "includefield": ["NumberOfStudyRelatedSeries"]}
        # Compared, because a server that ignores the filter answers with every study.
        entries = [entry for entry in self._query("studies", params) if _is_of(entry, study_uid)]
        patients = {(text(entry, "PatientID"), text(entry, "IssuerOfPatientID")) for entry in entries}
        if len(patients) > 1:
            raise SeveralPatients(f"The archive has study {study_uid} under {len(patients)} patients.")
        counts = [text(entry, "NumberOfStudyRelatedSeries") for entry in entries]
        return int(counts[0]) if counts and counts[0].isdecimal() and int(counts[0]) > 0 else None

    def _headers(self, study_uid: str, entry: Dataset) -> list[Dataset]:
        """Return the headers of a series, from its instances if the metadata lack attributes of images."""
        series_uid = text(entry, "SeriesInstanceUID")
        try:
            headers = self._query(_path(study_uid, series_uid) + "/metadata")
            if not headers:
                raise ArchiveIncomplete(
                    f"The archive lists series {series_uid} but returns no headers for it."
                )
            if any(_lacks_geometry(header) for header in headers):
                instances = self.retrieve_series(study_uid, series_uid)
                headers = [_without_pixels(instance) for instance in instances]
        except (ArchiveRefused, ArchiveIncomplete) as refusal:
            return UnreadSeries(entry, refusal)
        return headers

    def retrieve_series(self, study_uid: str, series_uid: str) -> list[Dataset]:
        count = self._count(study_uid, series_uid)
        received = self._transport.get(_path(study_uid, series_uid), INSTANCES, read_instances) or {}
        identity.check_received(list(received.values()), study_uid, series_uid)
        if len(received) == count:
            return list(received.values())
        listed_uids = self._listed_uids(study_uid, series_uid)
        missing = [uid for uid in listed_uids if uid not in received]
        if missing or not received:
            self._series_count(study_uid)
            raise ArchiveIncomplete(
                f"The archive lists {len(listed_uids) or count} instances of series {series_uid} and served "
                f"{len(received)}. Missing: {', '.join(missing[:3])}{' and more' if missing[3:] else ''}."
            )
        return list(received.values())

    def _count(self, study_uid: str, series_uid: str) -> int | None:
        """Return the number of instances that a query states for the series; None if it does not say.

        Raises: StudyNotFound, SeriesNotFound.
        """
        params: Params = {
            "SeriesInstanceUID": series_uid,
            "includefield": ["NumberOfSeriesRelatedInstances"],
        }
        for entry in self._entries(_path(study_uid) + "/series", "SeriesInstanceUID", params):
            if text(entry, "SeriesInstanceUID") == series_uid:
                count = text(entry, "NumberOfSeriesRelatedInstances")
                return int(count) if count.isdecimal() else None
        if not self._query("studies", {"StudyInstanceUID": study_uid}):
            raise StudyNotFound(f"The archive has no study {study_uid}.")
        raise SeriesNotFound(f"Study {study_uid} has no series {series_uid} in the archive.")

    def _listed_uids(self, study_uid: str, series_uid: str) -> list[str]:
        # Metadata, because many servers cut the answer to a query on instances to a page. Only requested if
        # the counts differ, because Orthanc needs longer for the metadata than for the pixels.
        entries = self._transport.get(_path(study_uid, series_uid) + "/metadata", JSON, read_json) or []
        return list(dict.fromkeys(dicom_json.sop_instance_uid(entry) for entry in entries))

    def store(self, instances: Sequence[Dataset]) -> None:
        pending = self._new_instances(instances)
        if not pending:
            return
        for pause_s in BACKOFF_S:
            try:
                self._send(pending)
            except RETRYABLE_ERRORS as error:
                # The instances may have arrived despite the error: send only those again that no query finds.
                logger.warning("STOW: %s; retry in %.1f s", error.code, pause_s)
                time.sleep(pause_s)
                pending = self._absent_instances(pending)
                if not pending:
                    return
            else:
                break
        else:
            self._send(pending)
        self._confirm(instances)

    def _new_instances(self, instances: Sequence[Dataset]) -> list[Dataset]:
        """Return the instances that the archive lacks: it would call the others stored, whatever they show.

        Raises: AlreadyStored, IdentityConflict.
        """
        identity.check_sent_together(instances)
        series: dict[tuple[str, str], list[Dataset]] = {}
        for instance in instances:
            uids = str(instance.StudyInstanceUID), str(instance.SeriesInstanceUID)
            series.setdefault(uids, []).append(instance)
        new_instances: list[Dataset] = []
        for (study_uid, series_uid), of_series in series.items():
            studies = self._query("studies", {"StudyInstanceUID": study_uid})
            for instance in of_series:
                identity.check_study_patient(
                    instance, [study for study in studies if _is_of(study, study_uid)]
                )
            entries = self._query(_path(study_uid) + "/series", {"SeriesInstanceUID": series_uid})
            is_known = any(entry.get("SeriesInstanceUID") == series_uid for entry in entries)
            absent = self._absent_instances(of_series) if is_known else of_series
            new_instances += absent
            if len(absent) < len(of_series):
                received = self.retrieve_series(study_uid, series_uid)
                identity.check_storable(of_series, {str(item.SOPInstanceUID): item for item in received})
        return new_instances

    def _send(self, instances: Sequence[Dataset]) -> None:
        content_type, body = multipart.encode([part10.encode(instance) for instance in instances])
        status, answer = self._transport.post("studies", content_type, body, read_store_answer)
        # The status alone proves nothing: Orthanc answers 200 with a FailedSOPSequence.
        reasons = {
            str(item.get("ReferencedSOPInstanceUID")): int(item.get("FailureReason") or 0)
            for item in answer.get("FailedSOPSequence", [])
        }
        if reasons or status not in {200, 202}:
            failures = [f"{uid} (failure reason {reason:04X}H)" for uid, reason in reasons.items()]
            uids = list(reasons) or [str(instance.SOPInstanceUID) for instance in instances]
            raise StoreFailed(
                f"The archive answered HTTP {status} and did not store {', '.join(failures or uids)}.",
                {"status": status, "failed": uids},
            )
        for item in answer.get("ReferencedSOPSequence", []):
            if item.get("WarningReason"):
                uid = item.get("ReferencedSOPInstanceUID")
                logger.warning("Stored %s with warning reason %04XH", uid, item.WarningReason)

    def _confirm(self, instances: Sequence[Dataset]) -> None:
        absent = self._absent_instances(instances)
        for pause_s in BACKOFF_S:
            if not absent:
                return
            time.sleep(pause_s)
            absent = self._absent_instances(absent)
        if absent:
            uids = [str(instance.SOPInstanceUID) for instance in absent]
            raise StoreFailed(
                f"The archive accepted {len(instances)} instances, but no query finds {', '.join(uids)}.",
                {"failed": uids},
            )

    def _absent_instances(self, instances: Sequence[Dataset]) -> list[Dataset]:
        return [i for i in instances if not self.has_instance(i.StudyInstanceUID, i.SOPInstanceUID)]

    def has_instance(self, study_uid: str, sop_uid: str) -> bool:
        params: Params = {"SOPInstanceUID": sop_uid}
        entries = self._entries(_path(study_uid) + "/instances", "SOPInstanceUID", params)
        # Compared, because a server that ignores the filter answers with every instance.
        return any(text(entry, "SOPInstanceUID") == sop_uid for entry in entries)

    def delete_instance(self, study_uid: str, sop_uid: str) -> None:
        for path in self._lookup("Instance", sop_uid):
            # A copy of the study may hold the same instance.
            study = self._rest_json(f"{path}/study")
            if study["MainDicomTags"].get("StudyInstanceUID") == study_uid:
                self._rest_api.delete(path)

    def delete_study(self, study_uid: str) -> None:
        paths = self._lookup("Study", study_uid)
        if len(paths) > 1:
            raise ArchiveRefused(
                f"Orthanc has study {study_uid} under {len(paths)} patients; nothing was deleted."
            )
        for path in paths:
            self._rest_api.delete(path)

    @property
    def _rest_api(self) -> Transport:
        if self._rest is None:
            raise DeletionUnavailable("MetScope cannot delete from this archive.")
        return self._rest

    def _lookup(self, kind: Literal["Instance", "Study"], uid: str) -> list[str]:
        """Return Orthanc's own paths of the objects with that UID."""
        entries = self._rest_api.post("tools/lookup", "text/plain", uid.encode(), read_lookup)
        return [f"{PATHS[kind]}/{quote(entry['ID'], safe='')}" for entry in entries if entry["Type"] == kind]

    def _rest_json(self, path: str) -> dict[str, Any]:
        return self._rest_api.get(path, "application/json", read_object) or {"MainDicomTags": {}}

    def check(self) -> None:
        if self._transport.probe("studies?limit=1", JSON, read_json) is None:
            raise ArchiveRefused(
                "The archive answered 404: DICOMWEB_URL is not the root of a DICOMweb service."
            )

    def _entries(self, path: str, key: str, params: Params) -> Iterator[Dataset]:
        """Yield the entries that a query finds, each value of key once, over all pages of the answer.

        Entries without a value of key come after the others of their page.
        A page without new entries is the last: an archive that ignores the offset repeats the first page.
        """
        earlier_values: set[str] = set()
        offset = 0
        while True:
            page = self._query(path, {**params, "offset": str(offset)} if offset else params)
            entries = {text(entry, key): entry for entry in page}
            new_values = [value for value in entries if value and value not in earlier_values]
            if not new_values:
                return
            for value in new_values:
                yield entries[value]
            yield from (entry for entry in page if not text(entry, key))
            earlier_values.update(new_values)
            offset += len(page)

    def _query(self, path: str, params: Params | None = None) -> list[Dataset]:
        entries = self._transport.get(path, JSON, read_json, params) or []
        try:
            return dicom_json.to_datasets(entries)
        except RecursionError:
            raise ArchiveRefused(f"The archive's answer to GET {path} is nested too deeply.") from None


def _path(study_uid: str, series_uid: str | None = None) -> str:
    study = f"studies/{quote(study_uid, safe='')}"
    return study if series_uid is None else f"{study}/series/{quote(series_uid, safe='')}"


def _identified(entries: Iterable[Dataset], key: str) -> list[Dataset]:
    """Return the entries of a query that have their UID; log how many lack it."""
    entries = list(entries)
    identified = [entry for entry in entries if text(entry, key)]
    if len(identified) < len(entries):
        logger.warning(
            "entries of the archive's list skipped: %d without %s", len(entries) - len(identified), key
        )
    return identified


def _is_of(entry: Dataset, study_uid: str) -> bool:
    return text(entry, "StudyInstanceUID") == study_uid


def _lacks_geometry(header: Dataset) -> bool:
    """Return whether the header of an MR image lacks what describes or places its pixels."""
    if text(header, "SOPClassUID") not in SUPPORTED:
        return False
    planes = () if text(header, "SOPClassUID") in MULTI_FRAME else PLANE_KEYWORDS
    return not all(text(header, keyword) for keyword in (*IMAGE_KEYWORDS, *planes))


def _without_pixels(instance: Dataset) -> Dataset:
    for keyword in PIXEL_KEYWORDS:
        if keyword in instance:
            del instance[keyword]
    return instance
