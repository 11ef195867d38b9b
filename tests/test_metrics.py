"""Prometheus is told what is in the database, and nothing about patients."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert

from db import jobs
from db.database import open_database
from db.tables import Job, Patient, Segmentation, Series, Study
from metrics import exposition

ALERTS = yaml.safe_load((Path(__file__).parents[1] / "docs" / "alerts.yml").read_text())


@pytest.fixture(params=["sqlite", "postgresql"])
def sessions(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'metscope.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql")
    opened = open_database(url)
    yield opened
    opened.kw["bind"].dispose()


def samples(sessions, silent_s=None) -> dict[tuple[str, ...], float]:
    text = exposition(sessions, silent_s).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_empty_database_has_no_jobs_and_nothing_waits(sessions):
    told = samples(sessions)
    assert {told["metscope_jobs", state] for state in ("queued", "running", "done", "failed")} == {0.0}
    assert told["metscope_outbox_segmentations",] == told["metscope_oldest_queued_job_seconds",] == 0.0
    assert ("metscope_worker_silent_seconds",) not in told


def test_jobs_failures_stages_and_outbox_are_counted(sessions):
    now = datetime.now(UTC)
    with sessions.begin() as session:
        session.execute(insert(Patient).values(id=1, patient_id="MS-1", issuer="", name="Doe^Jane"))
        session.execute(insert(Study).values(id=1, study_instance_uid="1.2.3", patient_ref=1))
        session.execute(insert(Series).values(id=1, series_instance_uid="1.2.3.4", study_ref=1))
        for version, seconds in ((1, 2.0), (2, 4.0)):
            session.execute(
                insert(Segmentation).values(
                    id=f"s{version}", series_ref=1, version=version, idempotency_key="k", model_id="m",
                    model_version="1", model_sha256="0", reasons=[], warnings=[], store_attempts=0,
                    sop_instance_uid=f"1.{version}", outbox_path="x" if version == 2 else None,
                    timings_s={"predict": seconds, "fetch": 0.5}, peak_memory_mb=100.0 * version,
                    software_version="1", created_at=now,
                )
            )  # fmt: skip
    failed, waiting = (jobs.submit(sessions, f"1.2.{n}", "m").id for n in (1, 2))
    jobs.claim(sessions, failed, "a", 60.0, 3)
    jobs.fail(sessions, failed, "a", "constant_pixels", "all 0")
    with sessions.begin() as session:
        session.get_one(Job, waiting).created_at = now - timedelta(seconds=100)

    told = samples(sessions, 3.5)
    assert (told["metscope_jobs", "queued"], told["metscope_jobs", "failed"]) == (1, 1)
    assert told["metscope_job_failures_total", "constant_pixels"] == 1
    assert 100 <= told["metscope_oldest_queued_job_seconds",] < 160
    assert told["metscope_outbox_segmentations",] == 1
    assert told["metscope_stage_seconds_sum", "predict"] == 6.0
    assert told["metscope_stage_seconds_count", "predict"] == 2
    assert told["metscope_stage_seconds_count", "encode"] == 0
    assert told["metscope_peak_memory_bytes",] == 200 * 2**20
    assert told["metscope_worker_silent_seconds",] == 3.5
    text = exposition(sessions, None).decode()
    assert not any(secret in text for secret in ("MS-1", "Doe", "1.2.3"))


def test_every_alert_names_a_metric_that_is_told(sessions):
    failed = jobs.submit(sessions, "1.2.1", "m").id
    jobs.claim(sessions, failed, "a", 60.0, 3)
    jobs.fail(sessions, failed, "a", "internal_error", "")
    told = {name for name, *_ in samples(sessions, 1.0)}
    for rule in ALERTS["groups"][0]["rules"]:
        assert any(name in rule["expr"] for name in told), rule["alert"]
