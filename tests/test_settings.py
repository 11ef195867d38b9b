"""Settings that cannot be used stop the start, with their name and the remedy."""

import pytest

from errors import SettingsError
from settings import ROOT, load


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory of its own, without the settings of this machine."""
    monkeypatch.chdir(tmp_path)
    for line in (ROOT / ".env.example").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            monkeypatch.delenv(line.partition("=")[0], raising=False)


@pytest.mark.parametrize(
    ("line", "name", "remedy"),
    [
        ("MODELS_DIR=/nowhere/models", "MODELS_DIR", "leave it empty for the shipped models"),
        ("MODELS_DIR=.env", "MODELS_DIR", "leave it empty for the shipped models"),
        ("MODEL_PATH=/nowhere/model.safetensors", "MODEL_PATH", "/nowhere/model.safetensors"),
        ("BROKER_URL=127.0.0.1:6379", "BROKER_URL", "redis://host:6379/0"),
        ("BROKER_URL=http://127.0.0.1:6379", "BROKER_URL", "leave it empty for a folder in DATA_DIR"),
        ("BROKER_URL=filesystem://localhost", "BROKER_URL", "leave it empty for a folder in DATA_DIR"),
        ("DICOMWEB_URL=127.0.0.1:8042", "DICOMWEB_URL", "must start with http://"),
        ("PORT=five", "PORT", "integer"),
        ("DEVICE=gpu", "DEVICE", "cuda"),
        ("HOST=0.0.0.0", "HOST", "TLS_CERTIFICATE"),
        ("TLS_KEY=.env", "TLS_KEY", "set both or neither"),
        ("TLS_KEY=.env\nTLS_CERTIFICATE=/nowhere.pem", "TLS_CERTIFICATE", "no file /nowhere.pem"),
        ("CORS_ORIGINS=*", "CORS_ORIGINS", "one by one"),
        ("DATABSE_URL=sqlite://", "DATABSE_URL", "Did you mean DATABASE_URL"),
        ("cors_origin=https://a.example", "CORS_ORIGIN", "Did you mean CORS_ORIGINS"),
        ("LEASE=60", "LEASE", "Did you mean LEASE_S"),
        ("HOSTS=127.0.0.1\nDICOM_URL=http://a", "DICOM_URL", "Did you mean DICOMWEB_URL"),
        ("HOSTS=127.0.0.1\nDICOM_URL=http://a", "HOSTS", "Did you mean HOST?"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name_and_the_remedy(line, name, remedy, tmp_path):
    (tmp_path / ".env").write_text(line + "\n")
    with pytest.raises(SettingsError) as stopped:
        load()
    assert name in stopped.value.message
    assert remedy in stopped.value.message


def test_no_value_is_quoted_that_may_hold_a_password(tmp_path):
    (tmp_path / ".env").write_text("BROKER_URL=:secret@host\nDICOMWEB_PASWORD=secret\n")
    with pytest.raises(SettingsError) as stopped:
        load()
    assert "secret" not in stopped.value.message


@pytest.mark.parametrize(
    "url", ["", "redis://host:6379/0", "rediss://:p@host/1", "amqp://host//", "amqps://host//"]
)
def test_brokers_that_are_served(url, tmp_path):
    (tmp_path / ".env").write_text(f"BROKER_URL={url}\n")
    assert load().broker_url == url


def test_names_of_other_programs_and_of_the_machine_are_let_through(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(
        "METSCOPE_PORT=8080\nMETSCOPE_HOST=h\nCOMPOSE_FILE=a.yml\nPGHOST=h\nPGPORT=5432\nTZ=UTC\nHOSTNAME=h\n"
    )
    monkeypatch.setenv("DATABSE_URL", "not in .env, so not ours to judge")
    monkeypatch.setenv("HOSTS", "a")
    assert load().port == 5000
