"""Generated requests: a few hundred of the thousands that `python -m bench.fuzz` sends."""

from bench.fuzz import fuzz
from bench.parts import PostgreSQL
from bench.service import settings_in


def test_every_answer_to_generated_requests_is_documented(tmp_path, postgresql_server: PostgreSQL):
    outcome = fuzz(settings_in(tmp_path, database_url=postgresql_server.create("fuzz")), 250, authorized=True)
    assert outcome.faults == {}
    assert outcome.requests == 250
    assert {200, 202, 204, 404, 422} <= set(outcome.statuses)


def test_nothing_but_health_and_the_login_answers_generated_requests_without_a_token(tmp_path):
    outcome = fuzz(settings_in(tmp_path), 100, authorized=False)
    assert outcome.faults == {}
    # Health, and the login's forms that are refused: 403, 422.
    assert {200, 401, 503} <= set(outcome.statuses) <= {200, 401, 403, 422, 503}
