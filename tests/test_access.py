"""The door: every route is shut to who has no right to it, and tokens are made, shown and revoked safely."""

import base64
import html
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

import api
from access import OPEN_ENDPOINTS, PAGES, make_first_token
from bench import rows
from bench.parts import wait_until
from db import jobs, tokens
from db.database import open_database
from db.tables import AuditEvent, Role, Token
from errors import SettingsError, TokenExists, TokenNotFound
from settings import LOOPBACK, Settings, load
from tests.documents import documents_of_study
from tests.recorded import TASKS
from unetr.served import default_model
from version import VERSION

RANK = {"reader": 0, "operator": 1, "admin": 2}
# What a role may do that the one below it may not; routes are named by method and path.
NEEDED = {"GET": "reader", "POST": "operator", "DELETE": "admin"}
NEEDED_BY_ENDPOINT = {
    # What is asked for stands in the body of this one; it changes nothing.
    "segmentationui.look_up": "reader",
    "operations.list_audit_events": "admin",
}


@pytest.fixture
def settings(tmp_path) -> Settings:
    """With every route that there is."""
    return Settings(_env_file=None, data_dir=tmp_path, segmentationui_api=True)


@pytest.fixture
def sessions(settings):
    return open_database(settings.sqlalchemy_url)


@pytest.fixture
def app(settings):
    return api.create_app(settings)


@pytest.fixture
def bearer(sessions):
    secrets_by_role = {role: tokens.create(sessions, role, Role(role), "test") for role in RANK}
    return {role: {"Authorization": f"Bearer {secret}"} for role, secret in secrets_by_role.items()}


def routes(app):
    """(method, path with every parameter filled in, endpoint) of every route."""
    for rule in app.url_map.iter_rules():
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            yield method, re.sub(r"<[^>]+>", "reader", rule.rule), rule.endpoint


def test_without_a_token_only_health_and_the_login_answer(app):
    client = app.test_client()
    calls = [*routes(app), ("GET", "/no/such/address", None), ("PATCH", "/jobs", None)]
    for method, path, endpoint in calls:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic cmVhZGVyOng="}):
            answer = client.open(path, method=method, headers=headers)
            if endpoint in OPEN_ENDPOINTS:
                # Forms without their fields, or from no page of this site.
                assert answer.status_code in {200, 403, 422, 503}
            else:
                assert answer.status_code == 401, (method, path)
                assert answer.json["error"]["code"] == "unauthorized"
                scheme = "Basic" if path.startswith(PAGES) else "Bearer"
                assert answer.headers["WWW-Authenticate"].split()[0] == scheme


def test_every_route_opens_to_its_role_and_those_above_and_to_no_other(app, bearer):
    client = app.test_client()
    for method, path, endpoint in routes(app):
        if endpoint in OPEN_ENDPOINTS:
            continue
        for role, rank in RANK.items():
            answer = client.open(path, method=method, headers=bearer[role])
            needed = NEEDED_BY_ENDPOINT.get(endpoint, NEEDED[method])
            if rank < RANK[needed]:
                assert (answer.status_code, answer.json["error"]["code"]) == (403, "forbidden"), path
            else:
                assert answer.status_code not in {401, 403}, (method, path, role)


@pytest.mark.parametrize("role", RANK)
def test_a_proxy_is_told_whether_a_token_has_a_role(app, bearer, role):
    client = app.test_client()
    for needed, rank in RANK.items():
        answer = client.get(f"/auth/{needed}", headers=bearer[role])
        assert answer.status_code == (204 if RANK[role] >= rank else 403)


def basic(header: dict[str, str]) -> dict[str, str]:
    """The same token as a browser sends it: a password, under any user name."""
    secret = header["Authorization"].removeprefix("Bearer ")
    return {"Authorization": "Basic " + base64.b64encode(f"me:{secret}".encode()).decode()}


def test_a_browser_opens_the_pages_with_a_password_and_nothing_else(app, bearer):
    client = app.test_client()
    for path in ("/operations", "/docs", "/docs/swagger", "/openapi.json"):
        assert client.get(path, headers=basic(bearer["reader"])).status_code in {200, 302, 308}, path
    for path in ("/jobs", "/patients", "/auth/admin", "/operationsx"):
        assert client.get(path, headers=basic(bearer["admin"])).status_code in {401, 404}, path


HERE = {"Origin": "http://localhost"}


def test_a_login_opens_until_the_logout_what_its_token_may(app, bearer):
    client = app.test_client()
    operator = bearer["operator"]["Authorization"].removeprefix("Bearer ")
    refused = client.post("/login", data={"token": "wrong", "next": "/"}, headers=HERE)
    assert (refused.status_code, refused.headers.getlist("Set-Cookie")) == (401, [])
    address = "/metscope?StudyInstanceUIDs=1.2&x=/y"
    page = client.get(f"/login?next={address}").text
    (hidden,) = re.findall(r'name="next" type="hidden" value="([^"]*)"', page)
    assert html.unescape(hidden) == address
    answer = client.post("/login", data={"token": operator, "next": address}, headers=HERE)
    assert (answer.status_code, answer.headers["Location"]) == (303, address)
    assert {"HttpOnly", "SameSite=Lax"} <= set(answer.headers["Set-Cookie"].split("; "))
    assert client.get("/session").json == {"name": "operator", "role": "operator", "version": VERSION}
    assert client.get("/auth/admin").status_code == 403
    assert client.post("/segmentation/1.2.3", headers=HERE).status_code == 202
    assert client.delete("/segmentations/1", headers=HERE).status_code == 403
    assert client.post("/logout").status_code == 403
    client.post("/logout", headers=HERE)
    assert client.get("/jobs").status_code == 401


@pytest.mark.parametrize("host", ["met_scope", "met_scope:8080", "metscope.example", "127.0.0.1:8080"])
def test_a_login_works_under_whatever_name_the_host_has(app, bearer, host):
    token = bearer["admin"]["Authorization"].removeprefix("Bearer ")
    form = {"token": token, "next": "/operations"}
    for origin, status in ((f"http://{host}", 303), ("null", 403), ("", 403), ("http://elsewhere", 403)):
        headers = {"Host": host, "Origin": origin}
        assert app.test_client().post("/login", data=form, headers=headers).status_code == status, origin


def test_a_login_by_another_site_s_form_is_refused(app, bearer):
    client = app.test_client()
    form = {"token": bearer["reader"]["Authorization"].removeprefix("Bearer ")}
    assert (
        client.post("/login", data=form, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    )
    assert client.get("/jobs").status_code == 401


def test_a_browser_that_was_asked_for_a_password_once_still_gets_in_by_its_cookie(app, bearer):
    client = app.test_client()
    token = bearer["operator"]["Authorization"].removeprefix("Bearer ")
    client.post("/login", data={"token": token}, headers=HERE)
    password = basic(bearer["operator"])
    assert client.get("/jobs", headers=password).status_code == 200
    assert client.post("/segmentation/1.2.3", headers=password).status_code == 403
    assert client.post("/segmentation/1.2.3", headers=password | HERE).status_code == 202


def test_the_cookie_of_a_revoked_token_opens_nothing(app, sessions, bearer):
    client = app.test_client()
    client.post(
        "/login", data={"token": bearer["admin"]["Authorization"].removeprefix("Bearer ")}, headers=HERE
    )
    assert client.get("/jobs").status_code == 200
    tokens.revoke(sessions, "admin", "test")
    assert client.get("/jobs").status_code == 401


@pytest.mark.parametrize(
    "site",
    [
        {},
        {"Origin": "https://elsewhere.example"},
        {"Sec-Fetch-Site": "cross-site"} | HERE,
        {"Origin": "null"},
    ],
)
def test_with_a_cookie_a_page_of_another_site_changes_nothing(app, bearer, site):
    client = app.test_client()
    client.post(
        "/login", data={"token": bearer["admin"]["Authorization"].removeprefix("Bearer ")}, headers=HERE
    )
    assert client.post("/segmentation/1.2.3", headers=site).json["error"]["code"] == "forbidden"
    assert client.get("/jobs").json == {"jobs": []}


@pytest.mark.parametrize(
    "elsewhere",
    ["https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere.example", "////elsewhere.example/x",
     "/////x", "//[x", "/x\r\nSet-Cookie: y=z", "x", ""],
)  # fmt: skip
def test_a_login_leads_nowhere_but_to_this_site(app, bearer, elsewhere):
    token = bearer["reader"]["Authorization"].removeprefix("Bearer ")
    answer = app.test_client().post("/login", data={"token": token, "next": elsewhere}, headers=HERE)
    assert answer.headers["Location"] == "/operations"


@pytest.mark.parametrize("address", ["", "/"])
def test_a_login_leads_to_the_viewer_or_without_one_to_a_page_of_the_service(app, bearer, address):
    client = app.test_client()
    form = {"token": bearer["reader"]["Authorization"].removeprefix("Bearer "), "next": address}
    behind_nginx = client.post("/login", data=form, headers=HERE | {"X-Forwarded-Proto": "http"})
    assert behind_nginx.headers["Location"] == "/"
    page = client.get(f"/login?next={address}").text
    form["next"] = re.search(r'name="next" type="hidden" value="([^"]*)"', page)[1]
    answer = client.post("/login", data=form, headers=HERE, follow_redirects=True)
    assert answer.status_code == 200
    assert "Failed (0)" in answer.text


def test_a_form_on_another_site_changes_nothing(app, sessions, bearer):
    client = app.test_client()
    job = client.post("/segmentation/1.2.3", headers=bearer["operator"]).json
    address, header = f"/operations/jobs/{job['id']}/cancel", basic(bearer["operator"])
    for site in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert client.post(address, headers=header | site).status_code == 403
    assert client.get(f"/jobs/{job['id']}", headers=bearer["reader"]).json["state"] == "queued"
    same = {"Sec-Fetch-Site": "same-origin"}
    assert client.post(address, headers=basic(bearer["reader"]) | same).status_code == 403
    answer = client.post(address, headers=header | same)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/operations")
    assert client.get(f"/jobs/{job['id']}", headers=bearer["reader"]).json["state"] == "cancelled"


def test_the_operations_page_shows_what_failed_and_why_and_asks_again(app, sessions, bearer):
    client = app.test_client()
    job = client.post("/segmentation/1.2.3", headers=bearer["operator"]).json
    jobs.claim(sessions, job["id"], "worker", lease_s=60, max_attempts=3)
    page = client.get("/operations", headers=bearer["reader"]).text
    assert re.search(r"Running \(1\).*1\.2\.3.*Queued \(0\)", page, re.DOTALL)
    assert "No worker has been seen" in page
    assert client.post(f"/jobs/{job['id']}/retry", headers=bearer["operator"]).status_code == 409
    jobs.fail(sessions, job["id"], "worker", "gantry_tilt", "Slices <b>4.4 mm</b> sideways.")
    page = client.get("/operations", headers=bearer["reader"]).text
    assert re.search(r"gantry_tilt</span>: Slices &lt;b&gt;4\.4 mm&lt;/b&gt; sideways", page)
    answer = client.post(f"/jobs/{job['id']}/retry", headers=bearer["operator"])
    assert answer.status_code == 202
    assert answer.json["id"] != job["id"]
    assert (answer.json["study_instance_uid"], answer.json["state"]) == ("1.2.3", "queued")


LINES = """element => {
    const range = document.createRange()
    range.selectNodeContents(element)
    return new Set([...range.getClientRects()].map(box => box.top)).size
}"""


@pytest.mark.parametrize("width", [1000, 1280, 1900])
@pytest.mark.parametrize("language", ["en", "fr"])
def test_what_happened_to_a_job_has_the_most_room_and_no_heading_is_broken(
    app, sessions, bearer, page, width, language
):
    job = jobs.submit(sessions, f"1.2.826.0.1.3680043.8.498.{7 * '7654321'}"[:64], "unetr", task=TASKS[-1])
    jobs.claim(sessions, job.id, "worker", lease_s=60, max_attempts=3)
    jobs.fail(
        sessions, job.id, "worker", "ambiguous_series", "2 series fit equally well: T1 MPRAGE post Gd. " * 5
    )
    headers = bearer["reader"] | {"Accept-Language": language, "X-Forwarded-Proto": "http"}
    page.set_viewport_size({"width": width, "height": 900})
    page.set_content(app.test_client().get("/operations", headers=headers).text)
    headings = page.locator(".jobs th").all()
    boxes = [heading.bounding_box() for heading in headings]
    happened = boxes[7]["width"]
    assert happened > 1.5 * max(box["width"] for box in boxes[:7] + boxes[8:])
    assert happened > sum(box["width"] for box in boxes) / (3 if width > 1000 else 4)
    for heading in headings:
        words = heading.inner_text().split()
        # As many lines as words at most: a broken word takes two.
        assert heading.evaluate(LINES) <= len(words), words
    button, cell = (page.locator(place).bounding_box() for place in (".jobs button", ".jobs td:last-child"))
    assert button["x"] + button["width"] <= cell["x"] + cell["width"]
    assert button["height"] < 30
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_operations_page_says_what_each_job_is_for(app, sessions, bearer):
    for task in TASKS:
        jobs.submit(sessions, "1.2.3", "unetr", task=task)
    page = app.test_client().get("/operations", headers=bearer["reader"]).text
    rows = re.findall(r"<tr>\s*<td class=\"uid\">1\.2\.3</td>\s*<td>(.*?)</td>", page)
    assert sorted(rows) == [
        "correction", "measurement", "restoration", "segmentation", "structure set", "uncertainty map",
    ]  # fmt: skip


def test_the_operations_page_counts_lesions_and_leads_to_the_result_and_the_viewer(tmp_path):
    settings = Settings(_env_file=None, data_dir=tmp_path, auth="off")
    study = rows.add_study(settings, 1)
    runner = rows.threshold_runner(settings)
    job = jobs.submit(runner.sessions, study, "metscope-unet")
    runner.run(job.id)
    client = api.create_app(settings).test_client()
    segmentation = jobs.get(runner.sessions, job.id).segmentation_id
    page = client.get("/operations").text
    assert f'<a href="/segmentations/{segmentation}">{rows.LESIONS}</a>' in page
    # Without the viewer's proxy there is no viewer to lead to.
    assert "/metscope" not in page
    behind_nginx = client.get("/operations", headers={"X-Forwarded-Proto": "https"}).text
    assert f'<a href="/metscope?StudyInstanceUIDs={study}">{study}</a>' in behind_nginx


def test_who_opens_the_operations_page_with_a_password_can_follow_its_links(app, bearer, result):
    segmentation = result["id"]
    client = app.test_client()
    password = basic(bearer["reader"])
    links = re.findall(r'href="([^"]+)"', client.get("/operations", headers=password).text)
    assert f"/segmentations/{segmentation}" in links
    for link in links:
        assert client.get(link, headers=password, follow_redirects=True).status_code == 200, link
    wrong = {"Authorization": "Basic cmVhZGVyOng="}
    for headers in (wrong, {}):
        refused = client.get(f"/segmentations/{segmentation}", headers=headers)
        # The viewer's calls must not open the browser's dialog for a password.
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    # A password grants only reading there, and does not stand in the way of a login.
    assert client.delete(f"/segmentations/{segmentation}", headers=basic(bearer["admin"])).status_code == 401
    form = {"token": bearer["reader"]["Authorization"].removeprefix("Bearer ")}
    client.post("/login", data=form, headers=HERE)
    assert client.get(f"/segmentations/{segmentation}", headers=wrong).status_code == 200


@pytest.mark.parametrize("address", ["/login", "/operations"])
def test_the_pages_are_in_the_browser_s_language(app, bearer, address):
    def ask(language):
        headers = bearer["reader"] | {"Accept-Language": language}
        return app.test_client().get(address, headers=headers).text

    french, english, german = (ask(language) for language in ("fr-CA,fr;q=0.9,en;q=0.8", "en-GB", "de"))
    assert '<html lang="fr">' in french
    assert "Pour la recherche uniquement" in french
    assert english == german
    assert "For research use only" in english
    for page in (french, english):
        assert page.count("<main>") == 1


def test_a_revoked_token_opens_nothing(app, sessions, bearer):
    client = app.test_client()
    assert client.get("/jobs", headers=bearer["reader"]).status_code == 200
    tokens.revoke(sessions, "reader", "test")
    assert client.get("/jobs", headers=bearer["reader"]).status_code == 401
    with pytest.raises(TokenNotFound):
        tokens.revoke(sessions, "reader", "test")
    with pytest.raises(TokenExists):
        tokens.create(sessions, "reader", Role.ADMIN, "test")


def test_who_changed_something_is_in_the_audit_trail(app, sessions, bearer):
    client = app.test_client()
    job = client.post("/segmentation/1.2.3", headers=bearer["operator"]).json
    assert job["requested_by"] == "operator"
    client.post(f"/jobs/{job['id']}/cancel", headers=bearer["admin"])
    with sessions() as session:
        trail = [(event.actor, event.action, event.subject) for event in session.query(AuditEvent)]
    assert trail[-2:] == [("operator", "job.request", job["id"]), ("admin", "job.cancel", job["id"])]


def audit_events(app, bearer, query: str = "") -> list[tuple[str, str, str]]:
    page = app.test_client().get(f"/audit{query}", headers=bearer["admin"])
    assert page.status_code == 200, page.json
    return [(event["actor"], event["action"], event["subject"]) for event in page.json["events"]]


def test_an_admin_reads_the_audit_trail_newest_first_by_what_is_asked(app, bearer):
    client = app.test_client()
    first, second = (
        client.post(f"/segmentation/1.2.{n}", headers=bearer["operator"]).json["id"] for n in (3, 4)
    )
    client.post(f"/jobs/{first}/cancel", headers=bearer["admin"])
    assert audit_events(app, bearer)[:3] == [
        ("admin", "job.cancel", first),
        ("operator", "job.request", second),
        ("operator", "job.request", first),
    ]
    assert audit_events(app, bearer, "?actor=operator&action=job.request") == [
        ("operator", "job.request", second),
        ("operator", "job.request", first),
    ]
    assert audit_events(app, bearer, f"?subject={first}&actor=admin") == [("admin", "job.cancel", first)]
    # Tokens were made by "test"; nobody of that name has done anything else.
    assert {action for _, action, _ in audit_events(app, bearer, "?actor=test")} == {"token.create"}


def test_the_audit_trail_is_read_page_by_page_without_loss_while_it_grows(app, bearer):
    client = app.test_client()
    job_ids = [client.post(f"/segmentation/1.2.{n}", headers=bearer["operator"]).json["id"] for n in range(5)]
    address, subjects = "/audit?action=job.request&limit=2", []
    before = None
    while True:
        page = client.get(address + (f"&before={before}" if before else ""), headers=bearer["admin"]).json
        subjects += [event["subject"] for event in page["events"]]
        client.post(f"/segmentation/1.3.{len(subjects)}", headers=bearer["operator"])
        before = page["next_before"]
        if before is None:
            break
    assert subjects == job_ids[::-1]


def test_the_audit_trail_is_bounded_by_time(app, sessions, bearer):
    with sessions.begin() as session:
        for day in (1, 2, 3):
            at = datetime(2020, 1, day, 12, tzinfo=UTC)
            session.add(AuditEvent(at=at, actor="old", action="test", subject=str(day), details={"day": day}))
    assert audit_events(app, bearer, "?actor=old&since=2020-01-02T00:00:00Z") == [
        ("old", "test", "3"),
        ("old", "test", "2"),
    ]
    assert audit_events(app, bearer, "?since=2020-01-02T13:00:00%2B01:00&until=2020-01-03T12:00:00Z") == [
        ("old", "test", "2")
    ]
    event = app.test_client().get("/audit?subject=3&actor=old", headers=bearer["admin"]).json["events"][0]
    assert (event["at"], event["details"]) == ("2020-01-03T12:00:00Z", {"day": 3})


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "since=yesterday",
        "since=2020-01-02T00:00:00",
        "since=0001-01-01T00:00:00%2B14:00",
        "kind=both",
        "who=x",
    ],
)
def test_a_question_to_the_audit_trail_that_makes_no_sense_is_refused(app, bearer, query):
    assert app.test_client().get(f"/audit?{query}", headers=bearer["admin"]).status_code == 422


@pytest.fixture
def result(settings):
    """A study of a patient that has been segmented."""
    study = rows.add_study(settings, 1)
    runner = rows.threshold_runner(settings)
    job = jobs.submit(runner.sessions, study, default_model(settings.models_dir).id)
    runner.run(job.id)
    return documents_of_study(runner.sessions, study)[0]


def reads(app, bearer, count: int) -> list[tuple[str, str, str]]:
    """So many reads of the audit trail, the newest first; they are written within seconds."""
    wait_until(lambda: len(audit_events(app, bearer, "?kind=read")) >= count, "reads in the trail")
    return audit_events(app, bearer, "?kind=read")


def test_who_read_what_of_a_patient_is_in_the_audit_trail_without_the_patient(app, settings, bearer, result):
    client = app.test_client()
    (patient,) = client.get("/patients", headers=bearer["reader"]).json["patients"]
    study, series = result["study_instance_uid"], result["series_instance_uid"]
    seg = result["segmentation"]["sop_instance_uid"]
    orthanc_id = client.get("/segmentationui/getAllStudies", headers=bearer["reader"]).json[0]
    reads_by_path = {
        f"/segmentations/{result['id']}": ("segmentation.read", result["id"]),
        f"/studies/{study}/segmentations": ("study.read", study),
        f"/studies/{study}/candidates": ("study.read", study),
        f"/patients/{patient['patient_id']}/lesions": ("lesions.read", study),
        f"/segmentationui/getStudy/{orthanc_id}": ("study.read", study),
        f"/segmentationui/instances/{seg}/file": ("object.read", seg),
        "/segmentationui/followup-patients": ("patients.read", "all"),
        f"/segmentationui/followup-etudes?idPatient={patient['patient_id']}": ("studies.read", study),
        "/segmentationui/followup-etudes": ("studies.read", "all"),
        f"/segmentationui/followup-series?idEtude={study}": ("studies.read", study),
        f"/segmentationui/followup-metastases?idSeries={series}": ("lesions.read", series),
    }
    for path in reads_by_path:
        assert client.get(path, headers=bearer["operator"]).status_code == 200, path
    expected = [("reader", "patients.read", "all"), *(("operator", *read) for read in reads_by_path.values())]
    assert reads(app, bearer, len(expected)) == expected[::-1]
    trail = client.get("/audit", headers=bearer["admin"]).get_data(as_text=True)
    for secret in (patient["patient_id"], patient["name"], patient["birth_date"]):
        assert secret
        assert secret not in trail


def test_what_shows_no_patient_data_is_not_a_read_and_changes_are_told_apart(app, bearer, result):
    client = app.test_client()
    job = client.post("/segmentation/1.2.3", headers=bearer["operator"]).json["id"]
    others = (
        "/jobs",
        f"/jobs/{job}",
        "/health/live",
        "/metrics",
        "/session",
        "/models",
        "/auth/reader",
        "/audit",
    )
    for path in (*others, "/operations", "/segmentations/0", "/studies/no-uid/segmentations"):
        client.get(path, headers=bearer["admin"])
    client.get("/patients", headers=bearer["admin"])
    assert reads(app, bearer, 1) == [("admin", "patients.read", "all")]
    changes = audit_events(app, bearer, "?kind=change")
    assert changes[0] == ("operator", "job.request", job)
    assert {action for _, action, _ in audit_events(app, bearer)} == {action for _, action, _ in changes} | {
        "patients.read"
    }


def test_a_database_that_nobody_can_write_to_delays_no_read_and_the_read_is_noted_later(
    app, settings, bearer, result
):
    path = settings.sqlalchemy_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for _ in range(3):
            answer = app.test_client().get(f"/segmentations/{result['id']}", headers=bearer["reader"])
            assert answer.status_code == 200
        # SQLite's own patience with a lock is 30 s.
        assert time.monotonic() - began < 10
        assert audit_events(app, bearer, "?kind=read") == []
        connection.execute("ROLLBACK")
    assert reads(app, bearer, 3) == [("reader", "segmentation.read", result["id"])] * 3


def test_reads_are_noted_before_the_service_ends(settings, bearer, result):
    code = (
        "import sys, api; from settings import load; app = api.create_app(load()); "
        "answer = app.test_client().get('/patients', headers={'Authorization': sys.argv[1]}); "
        "sys.exit(answer.status_code != 200)"
    )
    environment = {**os.environ, "DATA_DIR": str(settings.data_dir)}
    command = [sys.executable, "-c", code, bearer["reader"]["Authorization"]]
    subprocess.run(command, cwd=Path(api.__file__).parent, env=environment, check=True)
    assert audit_events(api.create_app(settings), bearer, "?kind=read") == [
        ("reader", "patients.read", "all")
    ]


@pytest.mark.parametrize("role", ["reader", "operator"])
def test_the_audit_trail_is_for_admins(app, bearer, role):
    assert app.test_client().get("/audit", headers=bearer[role]).status_code == 403


def test_the_database_holds_no_token(sessions, settings, bearer):
    with sessions() as session:
        kept = " ".join(f"{token.name} {token.role} {token.sha256}" for token in session.query(Token))
    for header in bearer.values():
        assert header["Authorization"].removeprefix("Bearer ") not in kept


def test_the_first_start_leaves_an_admins_token_that_only_its_user_reads(app, sessions, settings):
    path = make_first_token(settings, sessions)
    assert path == settings.first_token_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    header = {"Authorization": f"Bearer {path.read_text().strip()}"}
    assert app.test_client().get("/auth/admin", headers=header).status_code == 204
    assert make_first_token(settings, sessions) is None
    assert app.test_client().get("/auth/admin", headers=header).status_code == 204


def test_tokens_by_the_command_line(app, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert api.main(["token", "create", "viewer", "--role", "operator"]) == 0
    secret = capsys.readouterr().out.strip()
    header = {"Authorization": f"Bearer {secret}"}
    assert app.test_client().get("/auth/operator", headers=header).status_code == 204
    assert api.main(["token", "create", "viewer"]) == 2
    assert "token_exists" in capsys.readouterr().err
    assert api.main(["token", "list"]) == 0
    listed = capsys.readouterr().out
    assert "viewer: operator" in listed
    assert secret not in listed
    assert api.main(["token", "revoke", "viewer"]) == 0
    assert app.test_client().get("/jobs", headers=header).status_code == 401


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "line\nbreak",
        "tab\tname",
        "\x1b[31mred",
        "\x9b31mred",
        "a\u2028b",
        "\udcff",
        "\u200b",
        "a\u202eb",
    ],
)
def test_a_token_s_name_is_a_line_of_text(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert api.main(["token", "create", name]) == 2
    written = capsys.readouterr()
    assert (written.out, written.err.splitlines()[-1][:13]) == ("", "bad_request: ")
    api.main(["token", "list"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["HOSPITAL\\mueller", "Zoë\N{IDEOGRAPHIC SPACE}放射線科", "a@b.org", "מצח"])
def test_a_token_has_any_name_that_users_have(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert api.main(["token", "create", name]) == 0
    api.main(["token", "list"])
    assert f"{name}: reader" in capsys.readouterr().out


def test_without_authentication_everything_is_open_and_the_log_complains(tmp_path, caplog):
    app = api.create_app(Settings(_env_file=None, data_dir=tmp_path, auth="off"))
    assert app.test_client().get("/jobs").status_code == 200
    assert "AUTH=off" in caplog.text


def test_plain_http_beyond_this_machine_needs_a_switch():
    assert "0.0.0.0" not in LOOPBACK
    with pytest.raises(SettingsError, match=r"HOST 0\.0\.0\.0 would show tokens .* ALLOW_PLAIN_HTTP=true"):
        load(host="0.0.0.0")
    assert load(host="0.0.0.0", allow_plain_http=True).host == "0.0.0.0"


def test_answers_about_patients_are_kept_by_nobody(app, bearer):
    answer = app.test_client().get("/patients", headers=bearer["reader"])
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
