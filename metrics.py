"""Metrics for Prometheus, read from SQL at each scrape, so that every API process reports the same.

No label contains a UID, or an identifier or name of a patient.
"""

from collections.abc import Iterable
from datetime import timedelta
from statistics import median

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from db import outbox, workers
from db.database import current_time, reading
from db.tables import Job, JobState, Segmentation
from errors import (
    DeadlineExceeded,
    JobInterrupted,
    MetScopeError,
    ModelError,
    ModelSpecInvalid,
    OutOfMemory,
    WeightsInvalid,
)

OUR_OWN_FAILURES = [
    error.code
    for error in (
        MetScopeError,
        DeadlineExceeded,
        JobInterrupted,
        ModelError,
        ModelSpecInvalid,
        OutOfMemory,
        WeightsInvalid,
    )
]
RECENT_RUNS = 20
FAILURE_WINDOW = timedelta(hours=1)


def exposition(sessions: sessionmaker[Session], lease_s: float) -> bytes:
    """Return the metrics in Prometheus's text format. lease_s: workers silent for longer do not count."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(sessions, lease_s))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, sessions: sessionmaker[Session], lease_s: float) -> None:
        self._sessions = sessions
        self._lease_s = lease_s

    def collect(self) -> Iterable[GaugeMetricFamily]:
        with reading(self._sessions) as session:
            yield _jobs(session)
            yield _failures(session)
            yield _queue_age(session)
            yield from _archive(session)
            yield from _run_metrics(session)
            living = len(workers.living(session, self._lease_s))
            yield GaugeMetricFamily("metscope_workers", "Live workers.", living)


def _jobs(session: Session) -> GaugeMetricFamily:
    query = select(Job.state, func.count()).group_by(Job.state)
    counts = dict(session.execute(query).all())
    family = GaugeMetricFamily("metscope_jobs", "Jobs by state.", labels=["state"])
    for state in JobState:
        family.add_metric([state], counts.get(state, 0))
    return family


def _failures(session: Session) -> GaugeMetricFamily:
    # Gauges, not counters: a purge removes rows.
    failed = (Job.state == JobState.FAILED) & (Job.finished_at > current_time(session) - FAILURE_WINDOW)
    query = select(Job.error_code, func.count()).where(failed).group_by(Job.error_code)
    counts = dict.fromkeys(OUR_OWN_FAILURES, 0) | dict(session.execute(query).all())
    text = "Jobs that failed within the last hour, by error code."
    family = GaugeMetricFamily("metscope_jobs_failed_lately", text, labels=["code"])
    for code, count in counts.items():
        family.add_metric([code or ""], count)
    return family


def _queue_age(session: Session) -> GaugeMetricFamily:
    # Jobs that wait for the archive are counted by the outbox.
    startable = (Job.state == JobState.QUEUED) & Job.not_before.is_(None)
    oldest = session.scalar(select(func.min(Job.created_at)).where(startable))
    age_s = (current_time(session) - oldest).total_seconds() if oldest else 0.0
    return GaugeMetricFamily("metscope_oldest_queued_job_seconds", "Age of the oldest queued job.", age_s)


def _archive(session: Session) -> Iterable[GaugeMetricFamily]:
    waiting, missing = outbox.count(session), outbox.count_missing(session)
    text = "Objects (SEG, report, others) that the archive has not confirmed."
    yield GaugeMetricFamily("metscope_outbox_segmentations", text, waiting)
    text = "Stored segmentations missing from the archive."
    yield GaugeMetricFamily("metscope_missing_segmentations", text, missing)


def _run_metrics(session: Session) -> Iterable[GaugeMetricFamily]:
    newest = Segmentation.created_at.desc()
    latest = select(Segmentation.timings_s, Segmentation.peak_memory_mb).order_by(newest).limit(RECENT_RUNS)
    runs = session.execute(latest).all()
    text = f"Median duration of each stage of the last {RECENT_RUNS} segmentations."
    stages = GaugeMetricFamily("metscope_stage_seconds", text, labels=["stage"])
    for stage in dict.fromkeys(stage for timings_s, _ in runs for stage in timings_s):
        seconds = [timings_s[stage] for timings_s, _ in runs if stage in timings_s]
        stages.add_metric([stage], median(seconds))
    yield stages
    text = f"Largest peak memory of the last {RECENT_RUNS} segmentations."
    peak_mb = max((peak_mb or 0.0 for _, peak_mb in runs), default=0.0)
    yield GaugeMetricFamily("metscope_peak_memory_bytes", text, peak_mb * 2**20)
