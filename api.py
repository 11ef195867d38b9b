"""The web API: takes requests for segmentations, answers with jobs and measured lesions.

    python api.py            serve it, with one worker process beside it
    python api.py token …    create, list and revoke the tokens that let callers in
    gunicorn 'api:wsgi()'    serve it without a worker

The API itself reads and writes SQL, asks the archive for headers, and sends messages to the worker; it never
loads a model. Every error, whatever its cause, is answered by one handler in one shape:
``{"error": {"code", "message", "details"}}``.
"""

import argparse
import logging
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

import waitress
from celery import Celery
from flask import Response, current_app, g, jsonify, redirect, render_template, request
from flask_cors import CORS
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from flask_openapi3_swagger.plugins import RegisterPlugin as SwaggerUI  # type: ignore[import-untyped]
from pydantic import BaseModel, ValidationError
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from werkzeug.exceptions import BadRequest, HTTPException, UnsupportedMediaType
from werkzeug.wrappers import Response as AnyResponse

import access
import broker
import metrics
import schemas
from db import jobs, measurements
from db.database import open_database
from db.tables import ACTIVE_STATES, Job, JobState, Role
from errors import (
    ArchiveError,
    InvalidForm,
    MetScopeError,
    ModelNotFound,
    RequestError,
    SegmentationNotStored,
    SettingsError,
    Unauthorized,
)
from imaging import series
from orthanc.dicomweb import Archive, open_archive
from settings import Settings, load
from supervisor import Supervisor
from unetr.spec import ModelSpec, default_model, served_models
from version import VERSION

LARGEST_BODY_BYTES = 64 * 1024
THREADS = 16
WAITING_REQUESTS = THREADS // 2
WAIT_POLL_S = 0.1
JOBS_SHOWN = 25

logger = logging.getLogger("metscope.api")


def _operation_id(*, name: str, path: str, method: str) -> str:
    """The view's name, so that generated clients read well."""
    return name


routes = APIBlueprint(
    "metscope",
    __name__,
    abp_security=[{"token": []}],
    abp_responses={422: schemas.ErrorAnswer, "default": schemas.ErrorAnswer},
    operation_id_callback=_operation_id,
)


@dataclass(frozen=True)
class Context:
    """What the views work with. ``waiting`` keeps requests with wait_s from taking every thread."""

    settings: Settings
    sessions: sessionmaker[Session]
    celery: Celery
    waiting: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(WAITING_REQUESTS)
    )
    per_thread: threading.local = field(default_factory=threading.local)

    @property
    def archive(self) -> Archive:
        """This thread's own: an archive is not to be shared between threads."""
        if not hasattr(self.per_thread, "archive"):
            self.per_thread.archive = open_archive(self.settings)
        return cast(Archive, self.per_thread.archive)

    @property
    def default_model(self) -> ModelSpec:
        return default_model(self.settings.models_dir, self.settings.model_path)

    @property
    def models(self) -> dict[str, ModelSpec]:
        """Looked up anew each time, so that a model added to the folder is there without a restart."""
        return served_models(self.settings.models_dir, self.settings.model_path)


def create_app(settings: Settings) -> OpenAPI:
    """The Flask application. Raises: SettingsError when the database cannot be opened."""
    app = OpenAPI(
        "metscope",
        info=Info(title="MetScope", version=VERSION, description="Brain metastases. For research use only."),
        doc_ui=False,
        security_schemes={"token": {"type": "http", "scheme": "bearer"}},
        validation_error_model=schemas.ErrorAnswer,
        validation_error_callback=_refuse_form,
        template_folder="reports/templates",
    )
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    sessions = open_database(settings.sqlalchemy_url)
    app.extensions["metscope"] = Context(settings, sessions, broker.create(settings))
    access.guard(app, settings, sessions)
    app.register_api(routes)
    app.register_blueprint(SwaggerUI.register(doc_url="../openapi.json"), url_prefix="/docs")
    app.before_request(_refuse_other_than_json)
    app.register_error_handler(Exception, answer_error)
    if origins := [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]:
        CORS(app, origins=origins)
    return app


def context() -> Context:
    return cast(Context, current_app.extensions["metscope"])


def answer(body: BaseModel, status: int = 200) -> Response:
    response = jsonify(body.model_dump(mode="json"))
    response.status_code = status
    return response


def answer_error(error: Exception) -> Response:
    """The one handler: ours, Flask's and those that nobody foresaw, in the one shape."""
    if isinstance(error, MetScopeError):
        status, code, message, details = error.status, error.code, error.message, error.details
    elif isinstance(error, HTTPException) and error.code is not None:
        status, code, details = error.code, error.name.lower().replace(" ", "_"), {}
        message = error.description or error.name
    else:
        # The exception's own text may quote patient data, so only its type and place are logged.
        logger.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        unforeseen = MetScopeError(f"MetScope itself failed ({type(error).__name__}).")
        status, code, message, details = unforeseen.status, unforeseen.code, unforeseen.message, {}
    body = schemas.ErrorBody(code=code, message=message, details=details)
    response = answer(schemas.ErrorAnswer(error=body), status)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = (
            'Basic realm="MetScope", charset="UTF-8"' if access.is_page() else "Bearer"
        )
    if isinstance(error, HTTPException):
        allow = error.get_response().headers.get("Allow")
        if allow:
            response.headers["Allow"] = allow
    return response


def _refuse_form(error: ValidationError) -> NoReturn:
    fields = [
        {"field": ".".join(str(part) for part in item["loc"]) or "body", "problem": item["msg"]}
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    found = "; ".join(f"{item['field']}: {item['problem']}" for item in fields) + "."
    raise InvalidForm(found, {"fields": fields})


def _refuse_other_than_json() -> None:
    # Flask-OpenAPI's own reading takes a body of another type, or one that is not JSON, for an absent one.
    if not request.get_data(cache=True):
        return
    try:
        request.get_json()
    except UnsupportedMediaType:
        raise
    except BadRequest:
        raise RequestError("The body is not valid JSON.") from None


@routes.post(
    "/segmentation/<study_instance_uid>",
    responses={200: schemas.JobAnswer, 202: schemas.JobAnswer},
)
def request_segmentation(path: schemas.StudyPath, body: schemas.SegmentationForm) -> Response:
    """Segment a study: a job, to be polled at its Location

    200 where the job ended within wait_s, else 202. The series, if none is given, is chosen by the job.
    """
    known = context().models
    model = body.model or context().default_model.id
    if model not in known:
        raise ModelNotFound(f"There is no model {model!r}; there are: {', '.join(sorted(known))}.")
    job = jobs.submit(
        context().sessions,
        path.study_instance_uid,
        model,
        series_instance_uid=body.series_instance_uid,
        force=body.force,
        requested_by=g.actor,
    )
    _announce(job)
    job = _wait_for_end(job, body.wait_s or 0.0)
    response = _job(job, 202 if job.state in ACTIVE_STATES else 200)
    response.headers["Location"] = f"/jobs/{job.id}"
    return response


def _announce(job: Job) -> None:
    if not broker.announce(context().celery, job.id):
        logger.warning("job %s: the broker is away; a worker will find the job in the database", job.id)


def _wait_for_end(job: Job, wait_s: float) -> Job:
    deadline = time.monotonic() + wait_s
    if wait_s and context().waiting.acquire(blocking=False):
        try:
            while job.state in ACTIVE_STATES and time.monotonic() < deadline:
                time.sleep(WAIT_POLL_S)
                job = jobs.get(context().sessions, job.id)
        finally:
            context().waiting.release()
    return job


def _job(job: Job, status: int = 200) -> Response:
    return answer(schemas.JobAnswer.of(job, jobs.estimate_s(context().sessions, job)), status)


@routes.get("/jobs", responses={200: schemas.JobsAnswer})
def list_jobs(query: schemas.JobsQuery) -> Response:
    """The newest jobs"""
    sessions = context().sessions
    found = jobs.list_jobs(sessions, query.limit, query.state)
    return answer(
        schemas.JobsAnswer(jobs=[schemas.JobAnswer.of(j, jobs.estimate_s(sessions, j)) for j in found])
    )


@routes.get("/jobs/<job_id>", responses={200: schemas.JobAnswer})
def get_job(path: schemas.JobPath) -> Response:
    """How far a job has come"""
    return _job(jobs.get(context().sessions, path.job_id))


@routes.post(
    "/jobs/<job_id>/cancel",
    responses={200: schemas.JobAnswer},
)
def cancel_job(path: schemas.JobPath) -> Response:
    """Cancel a job; a running one ends within seconds"""
    return _job(jobs.cancel(context().sessions, path.job_id, g.actor))


@routes.post("/jobs/<job_id>/retry", responses={202: schemas.JobAnswer})
def retry_job(path: schemas.JobPath) -> Response:
    """Request again what a failed or cancelled job was asked for; another job"""
    return _job(_retry(path.job_id), 202)


def _retry(job_id: str) -> Job:
    job = jobs.retry(context().sessions, job_id, g.actor)
    _announce(job)
    return job


@routes.get(
    "/studies/<study_instance_uid>/candidates",
    responses={200: schemas.CandidatesAnswer},
)
def list_candidates(path: schemas.StudyPath) -> Response:
    """The study's series, ranked, with the reasons for the rank or for a refusal"""
    ranked = series.rank(context().archive.series_headers(path.study_instance_uid))
    candidates = [schemas.CandidateAnswer.model_validate(c, from_attributes=True) for c in ranked]
    return answer(schemas.CandidatesAnswer(candidates=candidates))


@routes.get("/studies/<study_instance_uid>/segmentations", responses={200: schemas.SegmentationsAnswer})
def list_segmentations(path: schemas.StudyPath) -> Response:
    """The study's segmentations, newest first; none for a study that was never segmented"""
    found = measurements.segmentations_of_study(context().sessions, path.study_instance_uid)
    return jsonify({"segmentations": found})


@routes.get(
    "/segmentations/<segmentation_id>",
    responses={200: schemas.SegmentationAnswer},
)
def get_segmentation(path: schemas.SegmentationPath) -> Response:
    """A segmentation with every lesion measured"""
    return jsonify(measurements.document(context().sessions, path.segmentation_id))


@routes.delete("/segmentations/<segmentation_id>", responses={204: None})
def delete_segmentation(path: schemas.SegmentationPath) -> Response:
    """Delete a segmentation: its SEG in the archive, and its rows from every list

    The SEG goes first: where the archive fails, nothing is changed and the request may be repeated.
    """
    sessions, segmentation_id = context().sessions, path.segmentation_id
    document = measurements.document(sessions, segmentation_id)
    sop_instance_uid = document["segmentation"]["sop_instance_uid"]
    if sop_instance_uid is not None:
        if not document["segmentation"]["stored"]:
            raise SegmentationNotStored(f"Segmentation {segmentation_id} still waits for the archive.")
        context().archive.delete_instance(document["study_instance_uid"], sop_instance_uid)
    measurements.delete_segmentation(sessions, segmentation_id, g.actor)
    return Response(status=204)


@routes.get("/patients", responses={200: schemas.PatientsAnswer})
def list_patients() -> Response:
    """The patients with results"""
    return jsonify({"patients": measurements.patients(context().sessions)})


@routes.get(
    "/patients/<path:patient_id>/lesions",
    responses={200: schemas.LesionsAnswer},
)
def list_lesions(path: schemas.PatientPath, query: schemas.PatientQuery) -> Response:
    """A patient's lesions by study date; of each series and model the newest segmentation"""
    lesions = measurements.lesions_of_patient(context().sessions, path.patient_id, query.issuer)
    return jsonify({"patient_id": path.patient_id, "lesions": lesions})


@routes.get("/models", responses={200: schemas.ModelsAnswer})
def list_models() -> Response:
    """The models that a request may name"""
    default = context().default_model
    models = [
        schemas.ModelAnswer(
            id=spec.id,
            title=spec.title,
            version=spec.version,
            sha256=spec.weights.sha256,
            default=spec.id == default.id,
        )
        for spec in context().models.values()
    ]
    return answer(schemas.ModelsAnswer(models=models))


@routes.get("/auth/<role>", responses={204: None})
def check_access(path: schemas.RolePath) -> Response:
    """204 where the request's token has that role, for a proxy in front of the archive

    nginx asks this (auth_request) before it passes a request on to Orthanc with Orthanc's own credentials.
    """
    if context().settings.auth == "token":
        access.admit(context().sessions, Role(path.role))
    return Response(status=204)


@routes.get("/health/live", security=[], responses={200: schemas.LiveAnswer})
def live() -> Response:
    """The API answers"""
    return answer(schemas.LiveAnswer(live=True))


@routes.get("/health/ready", security=[], responses={200: schemas.ReadyAnswer, 503: schemas.ReadyAnswer})
def ready() -> Response:
    """Whether a request would be worked on now; 503 with the reasons where not"""
    beat, troubles = _troubles()
    body = schemas.ReadyAnswer.model_validate(
        {
            "ready": not any(troubles.values()),
            "checks": {name: {"ok": not reason, "reason": reason} for name, reason in troubles.items()},
            "loaded_models": beat.loaded_models if beat is not None and not troubles["worker"] else (),
        }
    )
    return answer(body, 200 if body.ready else 503)


def _troubles() -> tuple[broker.Beat | None, dict[str, str | None]]:
    """The last sign of a worker, and by part what is wrong with it."""
    settings = context().settings
    beat = broker.last_beat(settings)
    alive = beat is not None and beat.age_s < settings.lease_s
    return beat, {
        "database": _database_trouble(),
        "archive": _archive_trouble(),
        "broker": broker.trouble(context().celery),
        "worker": None if alive else f"No worker has been seen for {settings.lease_s:.0f} s.",
    }


def _database_trouble() -> str | None:
    try:
        with context().sessions() as session:
            session.scalar(select(1))
    except SQLAlchemyError as error:
        return f"The database does not answer ({type(error).__name__})."
    return None


def _archive_trouble() -> str | None:
    try:
        context().archive.check()
    except ArchiveError as error:
        return error.message
    return None


@routes.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
def tell_metrics() -> Response:
    """Jobs, queue, outbox, stages and memory, in Prometheus's text format"""
    beat = broker.last_beat(context().settings)
    text = metrics.exposition(context().sessions, beat.age_s if beat is not None else None)
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


@routes.get("/operations", responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}})
def show_operations() -> Response:
    """The service at a glance, for a browser"""
    sessions = context().sessions
    sections = [
        (title, jobs.list_jobs(sessions, JOBS_SHOWN, state), action)
        for title, state, action in (
            ("Running", JobState.RUNNING, "cancel"),
            ("Queued", JobState.QUEUED, "cancel"),
            ("Failed", JobState.FAILED, "retry"),
            ("Done", JobState.DONE, None),
        )
    ]
    page = render_template(
        "operations.html",
        version=VERSION,
        troubles=_troubles()[1],
        waiting=len(measurements.pending(sessions)),
        sections=sections,
        shown=JOBS_SHOWN,
    )
    response = Response(page, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'self'"
    )
    return response


@routes.post("/operations/jobs/<job_id>/<action>", responses={303: None})
def act_on_job(path: schemas.ActionPath) -> AnyResponse:
    """A button of the operations page"""
    if path.action == "retry":
        _retry(path.job_id)
    else:
        jobs.cancel(context().sessions, path.job_id, g.actor)
    return redirect("/operations", 303)


@routes.get(
    "/openapi.json", responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}}
)
def openapi_document() -> Response:
    """This document"""
    return jsonify(cast(OpenAPI, current_app).api_doc)


@routes.get("/docs", responses={302: None})
def docs() -> AnyResponse:
    """The API in the browser, to read and to try; it needs nothing from the internet"""
    return redirect("/docs/swagger")


def wsgi() -> OpenAPI:
    """The application for a WSGI server, by the settings of the environment. Raises: SettingsError."""
    settings = load()
    app = create_app(settings)
    _say_where_the_first_token_is(settings, app)
    return app


def _say_where_the_first_token_is(settings: Settings, app: OpenAPI) -> None:
    if path := access.make_first_token(settings, app.extensions["metscope"].sessions):
        logger.warning("the first start made an admin's token: %s", path)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises: SettingsError when HOST:PORT cannot be listened on."""
    app = create_app(settings)
    _say_where_the_first_token_is(settings, app)
    try:
        server = waitress.create_server(app, host=settings.host, port=settings.port, threads=THREADS)
    except OSError as error:
        raise SettingsError(
            f"HOST {settings.host}, PORT {settings.port} cannot be listened on: {error.strerror}."
        ) from None
    url = f"http://{settings.host}:{settings.port}"
    print(
        f"MetScope {VERSION} at {url}, for research use only",
        f"  documentation  {url}/docs",
        f"  data folder    {settings.data_dir.resolve()}",
        f"  archive        {settings.archive_url}",
        sep="\n",
        flush=True,
    )
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    program = [sys.executable, str(Path(__file__).with_name("worker.py")), "--stop-at-eof"]
    worker = Supervisor(program)
    try:
        worker.start()
        server.run()
    finally:
        worker.stop()


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="api.py", description="Serve MetScope's web API.")
    access.add_token_commands(parser.add_subparsers(dest="command"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Its warnings quote values from the images' headers.
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        if options.command == "token":
            access.manage_tokens(open_database(load().sqlalchemy_url), options)
        else:
            serve(load())
    except MetScopeError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
