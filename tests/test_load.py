"""A queue drained by two real workers, on Redis and PostgreSQL; `python -m bench.load` times a longer one."""

from bench.load import drain
from bench.models import tiny_model
from bench.parts import PostgreSQL, Redis
from bench.service import settings_in


def test_two_workers_run_every_job_of_a_queue_once(tmp_path, postgresql_server: PostgreSQL):
    redis = Redis(tmp_path, "a-test-password")
    redis.start()
    try:
        settings = settings_in(
            tmp_path,
            database_url=postgresql_server.create("drain"),
            broker_url=redis.url,
            models_dir=tiny_model(tmp_path / "models", "tiny", 1000.0),
            lease_s=10.0,
        )
        drained = drain(settings, queue=12, studies=6, cores=[None, None])
    finally:
        redis.stop()
    assert (drained.once, drained.rows, drained.segs) == (12, 12, 12)
