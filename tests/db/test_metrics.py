"""Prometheus is told what is in the database, and nothing about patients."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from db import jobs, outbox, recording, workers
from db.tables import Job
from metrics import exposition
from tests.recorded import seg_object

ALERTS = yaml.safe_load((Path(__file__).parents[2] / "docs" / "alerts.yml").read_text())


def samples(sessions) -> dict[tuple[str, ...], float]:
    text = exposition(sessions, lease_s=60.0).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_empty_database_has_no_jobs_and_nothing_waits(sessions):
    values = samples(sessions)
    assert {values["metscope_jobs", state] for state in ("queued", "running", "done", "failed")} == {0.0}
    assert values["metscope_outbox_segmentations",] == values["metscope_oldest_queued_job_seconds",] == 0.0
    assert values["metscope_workers",] == values["metscope_missing_segmentations",] == 0


def test_jobs_failures_stages_and_outbox_are_counted(sessions, new):
    for number, seconds in ((1, 2.0), (2, 4.0)):
        run = replace(
            new, seg=seg_object(f"1.{number}"), timings_s={"predict": seconds, "fetch": 0.5},
            peak_memory_mb=100.0 * number,
        )  # fmt: skip
        recorded = recording.record(sessions, run)
    outbox.mark_stored(sessions, recorded, [f"1.{number}"])
    outbox.note_presence(sessions, recorded, present=False)
    workers.seen(sessions, "a", [])
    failed, waiting = (jobs.submit(sessions, f"1.2.{n}", "m").id for n in (1, 2))
    jobs.claim(sessions, failed, "a", 60.0, 3)
    jobs.fail(sessions, failed, "a", "constant_pixels", "all 0")
    with sessions.begin() as session:
        session.get_one(Job, waiting).created_at = datetime.now(UTC) - timedelta(seconds=100)

    values = samples(sessions)
    assert (values["metscope_jobs", "queued"], values["metscope_jobs", "failed"]) == (1, 1)
    assert values["metscope_jobs_failed_lately", "constant_pixels"] == 1
    assert values["metscope_jobs_failed_lately", "internal_error"] == 0
    assert 100 <= values["metscope_oldest_queued_job_seconds",] < 160
    assert values["metscope_outbox_segmentations",] == 1
    assert values["metscope_stage_seconds", "predict"] == 3.0
    assert ("metscope_stage_seconds", "encode") not in values
    assert values["metscope_peak_memory_bytes",] == 200 * 2**20
    assert values["metscope_workers",] == values["metscope_missing_segmentations",] == 1
    text = exposition(sessions, lease_s=60.0).decode()
    assert not any(secret in text for secret in ("MS-1", "Müller", "1.2.3"))


def test_every_alert_names_a_metric_that_is_told_from_the_start(sessions):
    names = {name for name, *_ in samples(sessions)}
    for rule in ALERTS["groups"][0]["rules"]:
        assert any(name in rule["expr"] for name in names), rule["alert"]
