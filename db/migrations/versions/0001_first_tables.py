"""first tables

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    with op.batch_alter_table("audit_events") as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_events_at"), ["at"], unique=False)

    op.create_table(
        "patients",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.String(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("birth_date", sa.Date(), nullable=True),
        sa.Column("sex", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patients")),
        sa.UniqueConstraint("patient_id", "issuer", name=op.f("uq_patients_patient_id_issuer")),
    )
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(), nullable=False),
        sa.Column("patient_ref", sa.Integer(), nullable=False),
        sa.Column("study_date", sa.Date(), nullable=True),
        sa.Column("study_time", sa.Time(), nullable=True),
        sa.Column("description", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["patient_ref"], ["patients.id"], name=op.f("fk_studies_patient_ref_patients")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_studies_study_instance_uid")),
    )
    with op.batch_alter_table("studies") as batch_op:
        batch_op.create_index(batch_op.f("ix_studies_patient_ref"), ["patient_ref"], unique=False)

    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(), nullable=False),
        sa.Column("study_ref", sa.Integer(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("modality", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["study_ref"], ["studies.id"], name=op.f("fk_series_study_ref_studies")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint("series_instance_uid", name=op.f("uq_series_series_instance_uid")),
    )
    with op.batch_alter_table("series") as batch_op:
        batch_op.create_index(batch_op.f("ix_series_study_ref"), ["study_ref"], unique=False)

    op.create_table(
        "segmentations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("series_ref", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("model_sha256", sa.String(), nullable=False),
        sa.Column("reasons", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("warnings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("sop_instance_uid", sa.String(), nullable=True),
        sa.Column("series_instance_uid", sa.String(), nullable=True),
        sa.Column("outbox_path", sa.String(), nullable=True),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("store_attempts", sa.Integer(), nullable=False),
        sa.Column("timings_s", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("peak_memory_mb", sa.Double(), nullable=True),
        sa.Column("software_version", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "outbox_path IS NULL OR sop_instance_uid IS NOT NULL",
            name=op.f("ck_segmentations_outbox_has_uid"),
        ),
        sa.ForeignKeyConstraint(
            ["series_ref"], ["series.id"], name=op.f("fk_segmentations_series_ref_series")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segmentations")),
        sa.UniqueConstraint(
            "series_ref", "model_id", "version", name=op.f("uq_segmentations_series_ref_model_id_version")
        ),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_segmentations_sop_instance_uid")),
    )
    with op.batch_alter_table("segmentations") as batch_op:
        batch_op.create_index(
            batch_op.f("ix_segmentations_idempotency_key"), ["idempotency_key"], unique=False
        )

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("request_key", sa.String(), nullable=False),
        sa.Column("study_instance_uid", sa.String(), nullable=False),
        sa.Column("series_instance_uid", sa.String(), nullable=True),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("segmentation_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name=op.f("ck_jobs_state")
        ),
        sa.ForeignKeyConstraint(
            ["segmentation_id"], ["segmentations.id"], name=op.f("fk_jobs_segmentation_id_segmentations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.create_index(batch_op.f("ix_jobs_state_created_at"), ["state", "created_at"], unique=False)
        batch_op.create_index(
            "uq_jobs_one_active",
            ["request_key"],
            unique=True,
            sqlite_where=sa.text("state IN ('queued', 'running') AND NOT force"),
            postgresql_where=sa.text("state IN ('queued', 'running') AND NOT force"),
        )

    op.create_table(
        "lesions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("segmentation_ref", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("tracking_id", sa.String(), nullable=False),
        sa.Column("tracking_uid", sa.String(), nullable=False),
        sa.Column("colour", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["segmentation_ref"], ["segmentations.id"], name=op.f("fk_lesions_segmentation_ref_segmentations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lesions")),
        sa.UniqueConstraint("segmentation_ref", "number", name=op.f("uq_lesions_segmentation_ref_number")),
    )
    with op.batch_alter_table("lesions") as batch_op:
        batch_op.create_index(batch_op.f("ix_lesions_tracking_uid"), ["tracking_uid"], unique=False)

    op.create_table(
        "measurements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("lesion_ref", sa.Integer(), nullable=False),
        sa.Column("volume_ml", sa.Double(), nullable=False),
        sa.Column("voxel_count", sa.Integer(), nullable=False),
        sa.Column("long_axis_mm", sa.Double(), nullable=False),
        sa.Column("short_axis_mm", sa.Double(), nullable=False),
        sa.Column("feret_mm", sa.Double(), nullable=False),
        sa.Column("long_axis_lps", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("short_axis_lps", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("slice", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("measurement_plane", sa.String(), nullable=False),
        sa.Column("plane", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("slices_spanned", sa.Integer(), nullable=False),
        sa.Column("centroid_lps_mm", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("bounding_box", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("mean_probability", sa.Double(), nullable=True),
        sa.Column("measurable", sa.Boolean(), nullable=False),
        sa.Column("measurable_reason", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["lesion_ref"], ["lesions.id"], name=op.f("fk_measurements_lesion_ref_lesions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurements")),
    )
    with op.batch_alter_table("measurements") as batch_op:
        batch_op.create_index(batch_op.f("ix_measurements_lesion_ref"), ["lesion_ref"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("measurements") as batch_op:
        batch_op.drop_index(batch_op.f("ix_measurements_lesion_ref"))

    op.drop_table("measurements")
    with op.batch_alter_table("lesions") as batch_op:
        batch_op.drop_index(batch_op.f("ix_lesions_tracking_uid"))

    op.drop_table("lesions")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_index(
            "uq_jobs_one_active",
            sqlite_where=sa.text("state IN ('queued', 'running') AND NOT force"),
            postgresql_where=sa.text("state IN ('queued', 'running') AND NOT force"),
        )
        batch_op.drop_index(batch_op.f("ix_jobs_state_created_at"))

    op.drop_table("jobs")
    with op.batch_alter_table("segmentations") as batch_op:
        batch_op.drop_index(batch_op.f("ix_segmentations_idempotency_key"))

    op.drop_table("segmentations")
    with op.batch_alter_table("series") as batch_op:
        batch_op.drop_index(batch_op.f("ix_series_study_ref"))

    op.drop_table("series")
    with op.batch_alter_table("studies") as batch_op:
        batch_op.drop_index(batch_op.f("ix_studies_patient_ref"))

    op.drop_table("studies")
    op.drop_table("patients")
    with op.batch_alter_table("audit_events") as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_events_at"))

    op.drop_table("audit_events")
