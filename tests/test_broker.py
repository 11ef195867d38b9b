"""Messages as they reach another process: through the real folder transport."""

import shutil

import broker
from bench.parts import free_port
from settings import Settings


def settings_in(folder, **others):
    return Settings(_env_file=None, data_dir=folder, **others)


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
    assert "does not answer" in broker.trouble(app)


def test_the_folder_queue_is_in_trouble_when_its_folder_is_gone(tmp_path):
    settings = settings_in(tmp_path)
    app = broker.create(settings)
    assert broker.trouble(app) is None
    shutil.rmtree(settings.queue_dir)
    assert "cannot be written" in broker.trouble(app)
