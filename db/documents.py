"""The document of a segmentation, made of its rows, as the API answers it (docs/api.md)."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select

from db.tables import Companion, LesionRow, Measurement, Segmentation, Series, Study
from schemas.results import (
    ColouredLesion,
    CompanionAnswer,
    ModelReference,
    PatientLesion,
    SegmentationAnswer,
    StoredSegmentation,
    total_volume_ml,
)

SCHEMA_VERSION = 1
IDENTITY = ("number", "name", "tracking_id", "tracking_uid")
MEASURED = tuple(
    column.key
    for column in Measurement.__table__.columns
    if column.key not in {"id", "lesion_ref", "created_at"}
)
# Segmentations that are not deleted, with their study and series.
SEGMENTATIONS = (
    select(
        *Segmentation.__table__.columns,
        Study.study_instance_uid,
        Study.study_date,
        Series.series_instance_uid.label("source_series_instance_uid"),
        Series.description.label("series_description"),
    )
    .join(Series, Series.id == Segmentation.series_ref)
    .join(Study, Study.id == Series.study_ref)
    .where(Segmentation.deleted_at.is_(None))
)
# Every measurement of each lesion, the newest last.
LESIONS = (
    select(
        LesionRow.segmentation_ref,
        LesionRow.colour,
        *(getattr(LesionRow, name) for name in IDENTITY),
        *(getattr(Measurement, name) for name in MEASURED),
    )
    .join(Measurement, Measurement.lesion_ref == LesionRow.id)
    .where(LesionRow.segmentation_ref.in_(bindparam("ids", expanding=True)))
    .order_by(LesionRow.segmentation_ref, LesionRow.number, Measurement.id)
)
COMPANIONS = (
    select(*Companion.__table__.columns)
    .where(Companion.segmentation_ref.in_(bindparam("ids", expanding=True)))
    .order_by(Companion.modality.desc())
)


def fetch(
    connection: Connection, query: Select[Any], parameters: Mapping[str, object]
) -> list[tuple[Row[Any], list[Row[Any]]]]:
    """Return the segmentations that a query on SEGMENTATIONS finds, each with its lesions by number."""
    segmentations = connection.execute(query, parameters).all()
    lesions: dict[str, dict[int, Row[Any]]] = {row.id: {} for row in segmentations}
    for row in connection.execute(LESIONS, {"ids": list(lesions)}):
        lesions[row.segmentation_ref][row.number] = row
    return [(row, list(lesions[row.id].values())) for row in segmentations]


def documents(
    connection: Connection, query: Select[Any], parameters: Mapping[str, object]
) -> list[SegmentationAnswer]:
    """Return the documents of the segmentations that a query on SEGMENTATIONS finds."""
    rows = fetch(connection, query, parameters)
    companions: dict[str, list[Row[Any]]] = {segmentation.id: [] for segmentation, _ in rows}
    for companion in connection.execute(COMPANIONS, {"ids": list(companions)}):
        companions[companion.segmentation_ref].append(companion)
    return [_document(segmentation, lesions, companions[segmentation.id]) for segmentation, lesions in rows]


def _document(
    segmentation: Row[Any], lesion_rows: Sequence[Row[Any]], companions: Sequence[Row[Any]]
) -> SegmentationAnswer:
    lesions = [ColouredLesion(**_fields(lesion)) for lesion in lesion_rows]
    return SegmentationAnswer(
        schema_version=SCHEMA_VERSION,
        id=segmentation.id,
        version=segmentation.version,
        created_at=segmentation.created_at,
        study_instance_uid=segmentation.study_instance_uid,
        study_date=iso_date(segmentation.study_date),
        series_instance_uid=segmentation.source_series_instance_uid,
        reasons=segmentation.reasons,
        model=ModelReference(
            id=segmentation.model_id, version=segmentation.model_version, sha256=segmentation.model_sha256
        ),
        segmentation=StoredSegmentation(
            sop_instance_uid=segmentation.sop_instance_uid,
            series_instance_uid=segmentation.series_instance_uid,
            stored=segmentation.stored_at is not None and segmentation.missing_since is None,
            missing_since=segmentation.missing_since,
        ),
        companions=[
            CompanionAnswer(
                modality=companion.modality,
                sop_instance_uid=companion.sop_instance_uid,
                series_instance_uid=companion.series_instance_uid,
                stored=companion.stored_at is not None,
            )
            for companion in companions
        ],
        corrects=segmentation.corrects,
        corrected_by=segmentation.corrected_by,
        changes=segmentation.changes,
        lesions=lesions,
        total_volume_ml=total_volume_ml(lesions),
        warnings=segmentation.warnings,
        timings_s=segmentation.timings_s,
        research_use_only=True,
    )


def lesion_in_place(lesion: Row[Any], segmentation: Row[Any]) -> PatientLesion:
    """Return a lesion outside its document: with its segmentation, model, study and series."""
    return PatientLesion(
        **_fields(lesion),
        segmentation_id=segmentation.id,
        model_id=segmentation.model_id,
        study_instance_uid=segmentation.study_instance_uid,
        study_date=iso_date(segmentation.study_date),
        series_instance_uid=segmentation.source_series_instance_uid,
        series_description=segmentation.series_description,
    )


def _fields(lesion: Row[Any]) -> dict[str, Any]:
    """Return the identity, the colour and the newest measurement of a lesion, by the names of its answer."""
    return {name: getattr(lesion, name) for name in (*IDENTITY, "colour", *MEASURED)}


def iso_date(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
