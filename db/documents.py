"""A segmentation's rows as the JSON-able document that the API answers with."""

from datetime import datetime
from typing import Any

from db.tables import Lesion, Measurement, Segmentation
from lesions.measure import ML_DECIMALS

SCHEMA_VERSION = 1
IDENTITY = ("number", "name", "tracking_id", "tracking_uid")
MEASURED = tuple(
    column.key
    for column in Measurement.__table__.columns
    if column.key not in {"id", "lesion_ref", "created_at"}
)


def document_of(segmentation: Segmentation) -> dict[str, Any]:
    """The whole document; docs/api.md describes it."""
    lesions = [lesion_of(row) for row in segmentation.lesions]
    return {
        "schema_version": SCHEMA_VERSION,
        "id": segmentation.id,
        "version": segmentation.version,
        "created_at": _iso(segmentation.created_at),
        "study_instance_uid": segmentation.series.study.study_instance_uid,
        "series_instance_uid": segmentation.series.series_instance_uid,
        "reasons": segmentation.reasons,
        "model": {
            "id": segmentation.model_id,
            "version": segmentation.model_version,
            "sha256": segmentation.model_sha256,
        },
        "segmentation": {
            "sop_instance_uid": segmentation.sop_instance_uid,
            "series_instance_uid": segmentation.series_instance_uid,
            "stored": segmentation.stored_at is not None and segmentation.missing_since is None,
            "missing_since": segmentation.missing_since and _iso(segmentation.missing_since),
        },
        "lesions": lesions,
        "total_volume_ml": round(sum(lesion["volume_ml"] for lesion in lesions), ML_DECIMALS),
        "warnings": segmentation.warnings,
        "timings_s": segmentation.timings_s,
        "research_use_only": True,
    }


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def lesion_of(row: Lesion) -> dict[str, Any]:
    """Its identity and its newest measurement."""
    return {name: getattr(row, name) for name in IDENTITY} | {
        name: getattr(row.measurements[-1], name) for name in MEASURED
    }


def place_of(segmentation: Segmentation) -> dict[str, Any]:
    """What a lesion outside its document needs to be found again: segmentation, model, study, series."""
    study = segmentation.series.study
    return {
        "segmentation_id": segmentation.id,
        "model_id": segmentation.model_id,
        "study_instance_uid": study.study_instance_uid,
        "study_date": study.study_date and study.study_date.isoformat(),
        "series_instance_uid": segmentation.series.series_instance_uid,
        "series_description": segmentation.series.description,
    }
