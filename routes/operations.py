"""The routes for health, metrics, the operations page, and a proxy's access check."""

from flask import Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

import access
import metrics
from db import audit, batches, jobs, outbox
from db.database import reading
from db.tables import JobState, Role
from routes.shared import answer, blueprint, context, has_viewer, submission
from routes.texts import language, texts
from schemas.jobs import ActionPath
from schemas.operations import AuditAnswer, AuditEventAnswer, AuditQuery, LiveAnswer, ReadyAnswer, RolePath
from version import VERSION

JOBS_SHOWN = 25

routes = blueprint("operations")


@routes.get("/auth/<role>", responses={204: None})
def check_access(path: RolePath) -> Response:
    """Check that the request's token has a role, for a proxy in front of the archive

    Answers 204 if it has. nginx asks (auth_request) before it passes a request on to Orthanc with Orthanc's
    own credentials.
    """
    if context().settings.auth == "token":
        access.admit(context().sessions, Role(path.role), request.headers.get("X-Original-Method"))
    return Response(status=204)


@routes.get("/health/live", security=[], responses={200: LiveAnswer})
def live() -> Response:
    """Report that the API is running"""
    return answer(LiveAnswer(live=True))


@routes.get("/health/ready", security=[], responses={200: ReadyAnswer, 503: ReadyAnswer})
def ready() -> Response:
    """Report whether requests can be processed now; 503 with the reasons if not"""
    report = context().health.report()
    body = ReadyAnswer.model_validate(
        {
            "ready": not any(report.problems.values()),
            "checks": {
                name: {"ok": not problem, "reason": report.reason(name)}
                for name, problem in report.problems.items()
            },
            "loaded_models": report.loaded_models,
        }
    )
    return answer(body, 200 if body.ready else 503)


@routes.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
def get_metrics() -> Response:
    """Report jobs, queue, outbox, stages and memory in Prometheus's text format"""
    text = metrics.exposition(context().sessions, context().settings.lease_s)
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


@routes.get("/audit", responses={200: AuditAnswer})
def list_audit_events(query: AuditQuery) -> Response:
    """List the audit trail, newest first: who read or changed what; for admins"""
    # One extra event tells whether there is a next page.
    question = query.model_dump() | {"limit": query.limit + 1}
    events = audit.events(context().sessions, **question)
    answers = [AuditEventAnswer.model_validate(e, from_attributes=True) for e in events[: query.limit]]
    has_more = len(events) > len(answers)
    return answer(AuditAnswer(events=answers, next_before=answers[-1].id if has_more else None))


@routes.get("/operations", responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}})
def show_operations() -> Response:
    """Show the state of the service in a browser"""
    sessions = context().sessions
    sections = [
        (state, jobs.list_jobs(sessions, JOBS_SHOWN, state), action)
        for state, action in (
            (JobState.RUNNING, "cancel"),
            (JobState.QUEUED, "cancel"),
            (JobState.FAILED, "retry"),
            (JobState.DONE, None),
        )
    ]
    job_rows = [job for _, rows, _ in sections for job in rows]
    report = context().health.report()
    with reading(sessions) as session:
        waiting, missing = outbox.count(session), outbox.count_missing(session)
    page = render_template(
        "operations.html",
        version=VERSION,
        report=report,
        waiting=waiting,
        missing=missing,
        sections=sections,
        shown=JOBS_SHOWN,
        lesions=batches.count_lesions(sessions, job_rows),
        viewer=has_viewer(),
        language=language(),
        text=texts(),
    )
    response = Response(page, content_type="text/html; charset=utf-8")
    response.headers["Vary"] = "Accept-Language"
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'self'"
    )
    return response


@routes.post("/operations/jobs/<job_id>/<action>", responses={303: None})
def act_on_job(path: ActionPath) -> AnyResponse:
    """Cancel or retry a job from the operations page"""
    act = submission().retry if path.action == "retry" else submission().cancel
    act(path.job_id)
    return redirect("/operations", 303)
