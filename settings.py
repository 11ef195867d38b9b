"""The settings of MetScope, typed and validated in one place.

Values come from the environment, then from ``.env`` in the working directory, then from files in the
folder that SECRETS_DIR names (one per setting, named like it in lower case: a container's secrets), then
from the defaults here; ``.env.example`` lists them all. Each entry point calls ``load()`` once. An unusable
value aborts the start with its name and the remedy, as does a misspelt name in ``.env``.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

import series_names as names_of_series
from errors import SettingsError

ROOT = Path(__file__).parent
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
BROKERS = ("redis://", "rediss://", "amqp://", "amqps://")
# docker compose reads the same .env; names with this prefix are its own.
COMPOSE_PREFIX = "METSCOPE_"
# Similarity from which a name counts as misspelt: CORS_ORIGIN for CORS_ORIGINS, but not PGPORT for PORT.
MISSPELT_SIMILARITY = 0.82


class Settings(BaseSettings):
    """The settings; a field is named like its environment variable, in lower case."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    data_dir: Path = Field(Path("data"), description="Folder for the database, queue and archive.")
    dicomweb_url: str = Field(
        "", description="Archive: http(s)://host:port/dicom-web, or file:///folder. Empty: DATA_DIR/archive."
    )
    dicomweb_user: str = Field("", description="User name for the archive. Empty: no authentication.")
    dicomweb_password: SecretStr = Field(SecretStr(""), description="Password for the archive.")
    dicomweb_connect_timeout_s: float = Field(5.0, gt=0, description="Longest wait for a connection.")
    dicomweb_read_timeout_s: float = Field(30.0, gt=0, description="Longest silence while data arrives.")
    dicomweb_total_timeout_s: float = Field(600.0, gt=0, description="Longest time for one retrieval.")
    orthanc_url: str = Field(
        "", description="Root of Orthanc's REST API, for deletion. Empty: nothing is deleted."
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL, e.g. postgresql+psycopg://user:password@host/metscope. "
        "Empty: SQLite in DATA_DIR.",
    )
    broker_url: str = Field(
        "", description="Celery broker, e.g. redis://host:6379/0. Empty: a folder in DATA_DIR."
    )
    models_dir: Path = Field(
        ROOT / "unetr" / "weights", description="Folder with the model specs and their weights."
    )
    model_path: Path | None = Field(
        None,
        description="One weights file; its spec is the default model. A training checkpoint of the published "
        "UNETR is imported at the start. Empty: the shipped model.",
    )
    series_names: Path | None = Field(
        None, description="TOML file with additional words in series names, as in series_names.toml."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where the model runs; cuda:1: the second GPU.",
    )
    cors_origins: str = Field(
        "", description="Origins of web pages that may call the API, separated by commas."
    )
    segmentationui_api: bool = Field(
        False, description="Also answer the calls of SegmentationUI's front-end, below /segmentationui."
    )
    auth: Literal["token", "off"] = Field(
        "token",
        description="Who may call the API. `token`: clients with a token; `off`: anyone who can reach it.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    allow_plain_http: bool = Field(
        False, description="Listen beyond this machine without TLS, e.g. behind a proxy with TLS."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate chain: the API then speaks HTTPS."
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key.")
    port: int = Field(5000, ge=1, le=65535, description="Port the API listens on.")
    log_format: Literal["text", "json"] = Field("text", description="Log lines as text or as JSON.")
    lease_s: float = Field(60.0, gt=1, description="A job whose worker is silent this long is queued again.")
    max_attempts: int = Field(3, ge=1, description="A job that was interrupted this often fails.")
    job_deadline_s: float = Field(3600.0, gt=0, description="A job that runs longer than this fails.")
    archive_check_h: float = Field(
        24.0, gt=0, description="Hours between checks that each stored SEG is still in the archive."
    )
    store_sr: bool = Field(
        True, description="Store a structured report with volumes and diameters with each SEG."
    )
    report_no_lesion: bool = Field(
        False,
        description="If no lesion is found, store a structured report that says so (with STORE_SR).",
    )
    measurable_ld_mm: float = Field(
        10.0, gt=0, description="Smallest long axis of a measurable lesion (RANO-BM: 10 mm)."
    )

    @field_validator("dicomweb_url")
    @classmethod
    def _archive_scheme(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://", "file:///")):
            raise ValueError("must start with http://, https:// or file:///")
        return url.rstrip("/")

    @field_validator("orthanc_url")
    @classmethod
    def _rest_scheme(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return url.rstrip("/")

    @field_validator("broker_url")
    @classmethod
    def _broker_scheme(cls, url: str) -> str:
        if url and not url.startswith(BROKERS):
            raise ValueError(
                f"must start with {', '.join(BROKERS)} (e.g. redis://host:6379/0); "
                "leave it empty for a folder in DATA_DIR"
            )
        return url

    @field_validator("models_dir")
    @classmethod
    def _models_folder(cls, folder: Path) -> Path:
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is not a folder; choose one with model specs, or leave it empty for the "
                "shipped models"
            )
        return folder

    @field_validator("cors_origins")
    @classmethod
    def _no_wildcard(cls, origins: str) -> str:
        if "*" in origins:
            raise ValueError("list the origins one by one; * would open the API to every web page")
        return origins

    @model_validator(mode="before")
    @classmethod
    def _no_misspelt_name(cls, values: dict[str, object]) -> dict[str, object]:
        # pydantic passes unknown names from .env here, but not unknown environment variables.
        names = [name.upper() for name in cls.model_fields]
        misspelt = []
        for name in sorted({key.upper() for key in values} - set(names)):
            meant = get_close_matches(name, names, n=1, cutoff=MISSPELT_SIMILARITY)
            if meant and not name.startswith(COMPOSE_PREFIX):
                misspelt.append(f"{name} in .env is not a setting. Did you mean {meant[0]}?")
        if misspelt:
            raise ValueError(" ".join(misspelt) + " Correct the name or remove the line")
        return values

    @model_validator(mode="after")
    def _plain_http_stays_here(self) -> Self:
        if self.host not in LOOPBACK and not self.allow_plain_http and self.tls_certificate is None:
            raise ValueError(
                f"HOST {self.host} would show tokens and results to the network: set TLS_CERTIFICATE and "
                "TLS_KEY, or keep it at 127.0.0.1 behind a proxy with TLS, or set ALLOW_PLAIN_HTTP=true"
            )
        return self

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS_CERTIFICATE and TLS_KEY: set both or neither")
        for path in (self.tls_certificate, self.tls_key):
            if path is not None and not path.is_file():
                raise ValueError(f"TLS_CERTIFICATE, TLS_KEY: there is no file {path}")
        return self

    @model_validator(mode="after")
    def _model_file(self) -> Self:
        if self.model_path is not None and not self.model_path.is_file():
            raise ValueError(f"MODEL_PATH names no file: {self.model_path}")
        return self

    @model_validator(mode="after")
    def _words_of_series_names(self) -> Self:
        if self.series_names is not None:
            try:
                names_of_series.load(self.series_names)
            except (OSError, ValueError) as error:
                raise ValueError(f"SERIES_NAMES cannot be used: {error}") from error
        return self

    @property
    def archive_url(self) -> str:
        """Return the archive's URL, by default that of the embedded archive."""
        return self.dicomweb_url or (self.data_dir.resolve() / "archive").as_uri()

    @property
    def sqlalchemy_url(self) -> str:
        """Return the database's URL, by default that of SQLite in DATA_DIR."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'metscope.sqlite'}"

    @property
    def queue_dir(self) -> Path:
        """Return the folder of the file-system broker."""
        return self.data_dir.resolve() / "queue"

    @property
    def first_token_path(self) -> Path:
        """Return the file for the token that the first start creates."""
        return self.data_dir.resolve() / "first.token"


def load(**overrides: object) -> Settings:
    """Read and validate the settings, and put their words for series names into use.

    Raises: SettingsError, naming each wrong setting and its remedy.
    """
    try:
        secrets_dir = os.environ.get("SECRETS_DIR")
        settings = Settings(_secrets_dir=secrets_dir, **overrides)  # type: ignore[arg-type,call-arg]
        names_of_series.use(settings.series_names)
        return settings
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(dict(item)) for item in error.errors()) + ".") from None


def _sentence(item: dict[str, object]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    location = item["loc"]
    # A message about several settings names them itself.
    return f"{str(location[0]).upper()}: {message}" if isinstance(location, tuple) and location else message
