"""Generated requests to the whole API; each answer is checked against the API's own OpenAPI document.

    python -m bench.fuzz [--requests 5000]

Schemathesis generates requests that fit the document and requests that do not; some of them name existing
studies, jobs and results, or contain hostile text. They are sent four times: with SQLite and with PostgreSQL,
with an admin's token and without one. A fault is an undocumented server error (5xx), an answer that does not
match the document (status, content type, headers, body), or, without a token, any answer but 401 outside
/health and the login. The exit status is 1 if there is a fault.
"""

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase, given, strategies
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api import create_app
from bench.parts import PostgreSQL
from bench.rows import add_study, threshold_runner
from bench.service import settings_in
from db import jobs, tokens
from db.tables import JobState, Role
from schemas.common import MAX_WAIT_S
from settings import Settings
from unetr.served import default_model
from worker import Runner

Case = schemathesis.Case[Any]
EXAMPLES = 25  # of one operation in one mode, before the turn of the next
SHORT_WAIT_S = 0.01
OPEN = ("/health/", "/login", "/logout")
LEASE_S = 3600.0
HOSTILE = ("a\0b", "../../etc", "%2e%2e%2f", "9" * 3000, "';--", "٣", "\N{SNOWMAN}\n")
CONFORMANCE = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass
class Outcome:
    """The answers. faults: (operation, status, fault) -> the first request that shows the fault."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: dict[tuple[str, int, str], str] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return self.statuses.total()

    def send(self, case: Case, headers: Mapping[str, str]) -> None:
        """Send the request and check its answer against the document."""
        body = case.body
        wait_s = body.get("wait_s") if isinstance(body, dict) else None
        if isinstance(body, dict) and isinstance(wait_s, int | float) and 0 < wait_s <= MAX_WAIT_S:
            case.body = {**body, "wait_s": SHORT_WAIT_S}  # no worker would end the wait
        response = case.call(headers=dict(headers))
        status = response.status_code
        self.statuses[status] += 1
        wrong = []
        try:
            case.validate_response(response, checks=CONFORMANCE)
        except FailureGroup as failures:
            wrong += [failure.title for failure in failures.exceptions]
        if status >= 500 and str(status) not in case.operation.responses.status_codes:
            wrong.append("Undocumented failure of the server")
        if not headers and status != 401 and not case.path.startswith(OPEN):
            wrong.append("Answered without a token")
        for fault in wrong:
            self.faults.setdefault((case.operation.label, status, fault), case.as_curl_command())


def fuzz(settings: Settings, requests: int, authorized: bool) -> Outcome:
    """Send that many requests, the same ones each time, to an API with these settings and an empty database.

    authorized: with an admin's token.
    """
    app, runner = create_app(settings), threshold_runner(settings)
    try:
        token = tokens.create(runner.sessions, "fuzz", Role.ADMIN, "fuzz")
        admin = {"Authorization": f"Bearer {token}"}
        schema = schemathesis.openapi.from_wsgi("/openapi.json", app, headers=admin)
        generators = [
            operation.as_strategy(generation_mode=mode)
            for path in schema
            for operation in schema[path].values()
            for mode in GenerationMode
        ]
        examples = max(1, min(EXAMPLES, requests // len(generators)))
        outcome = Outcome()
        send = partial(outcome.send, headers=admin if authorized else {})
        for turn in itertools.count():
            rows = [_row(runner, turn, state) for state in JobState]
            hostile = [dict.fromkeys((*rows[0], "issuer"), text) for text in HOSTILE]
            for generator in generators:
                count = min(examples, requests - outcome.requests)
                if count == 0:
                    return outcome
                _send(generator, [{}, *rows, *hostile], count, turn, send)
        raise AssertionError
    finally:
        for sessions in (app.extensions["metscope"].sessions, runner.sessions):
            sessions.kw["bind"].dispose()


def _row(runner: Runner, turn: int, state: JobState) -> dict[str, str]:
    """Create a job in that state for a new study; return the path parameters that find it and its result."""
    study_uid = add_study(runner.settings, turn)
    model = default_model(runner.settings.models_dir, runner.settings.model_path)
    job = jobs.submit(runner.sessions, study_uid, model.id)
    if state == JobState.CANCELLED:
        jobs.cancel(runner.sessions, job.id)
    elif state == JobState.DONE:
        runner.run(job.id)
    elif state != JobState.QUEUED:
        jobs.claim(runner.sessions, job.id, "bench", lease_s=LEASE_S, max_attempts=1)
        if state == JobState.FAILED:
            jobs.fail(runner.sessions, job.id, "bench", "gantry_tilt", "Slices 4.4 mm sideways.")
    return {
        "study_instance_uid": study_uid,
        "job_id": job.id,
        "segmentation_id": jobs.get(runner.sessions, job.id).segmentation_id or job.id,
        "patient_id": f"BENCH-{turn}",
    }


def _send(
    generator: SearchStrategy[Case],
    replacements: Sequence[dict[str, str]],
    count: int,
    seed: int,
    send: Callable[[Case], None],
) -> None:
    """Send up to ``count`` generated requests; replace values in path and query by name."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=generator, values=strategies.sampled_from(replacements))
    def send_case(case: Case, values: dict[str, str]) -> None:
        for part in (case.path_parameters, case.query):
            part.update({name: value for name, value in values.items() if name in part})
        send(case)

    send_case()


def report(name: str, outcome: Outcome) -> None:
    """Print the counts, and every fault with a request that shows it."""
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(outcome.statuses.items()))
    print(f"{name}: {outcome.requests} requests, {len(outcome.faults)} faults ({statuses})", flush=True)
    for (operation, status, fault), request in outcome.faults.items():
        print(f"  FAULT {operation}, {status}: {fault}\n    {request}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Send generated requests to the API.")
    parser.add_argument("--requests", type=int, default=5_000, help="on each database, by each caller")
    options = parser.parse_args()
    faults = 0
    postgresql = PostgreSQL()
    try:
        postgresql.start()
        for system, authorized in itertools.product(("SQLite", "PostgreSQL"), (True, False)):
            caller = "an admin" if authorized else "nobody"
            url = postgresql.create(caller) if system == "PostgreSQL" else ""
            with tempfile.TemporaryDirectory() as folder:
                settings = settings_in(Path(folder), database_url=url)
                outcome = fuzz(settings, options.requests, authorized)
            report(f"{system}, {caller}", outcome)
            faults += len(outcome.faults)
    finally:
        postgresql.remove()
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
