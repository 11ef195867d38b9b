"""Messages as they reach another process: through the real folder transport."""

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

import broker
from api import create_app
from bench.parts import Redis, free_port, frozen
from settings import Settings


def settings_in(folder, **options):
    return Settings(_env_file=None, data_dir=folder, **options)


def messages_in(app):
    received = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = app.amqp.queues[broker.QUEUE](channel)
        while (message := queue.get(no_ack=True)) is not None:
            received.append(message)
    return received


def test_a_message_names_the_task_and_the_job_in_json(tmp_path):
    settings = settings_in(tmp_path)
    assert broker.announce(broker.create(settings), "job-1")
    assert broker.announce(broker.create(settings), "job-2")
    received = messages_in(broker.create(settings))
    assert [message.payload[0] for message in received] == [["job-1"], ["job-2"]]
    assert {message.headers["task"] for message in received} == {"metscope.segment"}
    assert {message.content_type for message in received} == {"application/json"}


def test_a_message_leaves_nothing_behind_once_read(tmp_path):
    settings = settings_in(tmp_path)
    app = broker.create(settings)
    broker.announce(app, "job-1")
    messages_in(app)
    assert list((settings.queue_dir / "messages").iterdir()) == []


def test_a_broker_that_is_away_is_reported_and_raises_nothing(tmp_path):
    app = broker.create(settings_in(tmp_path, broker_url=f"amqp://127.0.0.1:{free_port()}//"))
    assert broker.announce(app, "job-1") is False
    assert "does not answer" in broker.health_problem(app)


def test_the_folder_queue_is_in_trouble_when_its_folder_is_gone(tmp_path):
    settings = settings_in(tmp_path)
    app = broker.create(settings)
    assert broker.health_problem(app) is None
    shutil.rmtree(settings.queue_dir)
    assert "cannot be written" in broker.health_problem(app)


@pytest.fixture
def redis(tmp_path):
    folder = tmp_path / "redis"
    folder.mkdir()
    running = Redis(folder, "a-password")
    running.start()
    yield running
    running.stop()


def command(redis, *words):
    with socket.create_connection(("127.0.0.1", redis.port), timeout=9) as connection:
        connection.sendall(f"AUTH {redis.password}\r\n{' '.join(words)}\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def test_a_redis_that_hangs_is_reported_and_raises_nothing(tmp_path, redis):
    app = broker.create(settings_in(tmp_path, broker_url=redis.url))
    assert broker.announce(app, "job-1") is True
    with frozen(redis):
        assert broker.announce(app, "job-2") is False
        assert "does not answer" in broker.health_problem(app)
    assert broker.health_problem(app) is None
    assert broker.announce(app, "job-3") is True


def test_a_redis_whose_memory_is_full_is_in_trouble(tmp_path, redis):
    app = broker.create(settings_in(tmp_path, broker_url=redis.url))
    assert broker.health_problem(app) is None
    command(redis, "CONFIG", "SET", "maxmemory", "1")
    assert "does not accept messages (OutOfMemoryError)" in broker.health_problem(app)
    assert broker.announce(app, "job-1") is False


def test_a_hung_redis_stops_neither_requests_nor_health(tmp_path, redis):
    app = create_app(settings_in(tmp_path, broker_url=redis.url, auth="off"))
    assert app.test_client().post("/segmentation/1.2.3").status_code == 202
    with frozen(redis):
        with ThreadPoolExecutor(16) as pool:
            ready = list(pool.map(lambda _: app.test_client().get("/health/ready"), range(40)))
            posted = list(pool.map(lambda n: app.test_client().post(f"/segmentation/1.2.{n}"), range(40)))
        assert {answer.json["checks"]["broker"]["ok"] for answer in ready} == {False}
        assert {answer.status_code for answer in posted} == {202}
        assert app.test_client().get("/health/live").status_code == 200
        page = app.test_client().get("/operations")
        assert (page.status_code, "does not answer" in page.text or "has not answered" in page.text) == (
            200,
            True,
        )


def test_a_queue_folder_that_was_deleted_refuses_no_request(tmp_path):
    settings = settings_in(tmp_path, auth="off")
    client = create_app(settings).test_client()
    shutil.rmtree(settings.queue_dir)
    job = client.post("/segmentation/1.2.3")
    assert job.status_code == 202
    assert client.get(f"/jobs/{job.json['id']}").json["state"] == "queued"
    assert client.get("/health/ready").json["checks"]["broker"]["ok"] is False
