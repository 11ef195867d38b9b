"""The fields and base classes that the forms and answers of several subjects share."""

from datetime import UTC, datetime
from functools import cache, partial
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from imaging.identity import UID_LENGTH, UID_PATTERN
from names import DICOM_NAME, require_visible

Uid = Annotated[str, Field(max_length=UID_LENGTH, pattern=UID_PATTERN)]

# PostgreSQL rejects NUL in a text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]

# Numbers are rounded as they are stored and answered.
MM_DECIMALS = 4
ML_DECIMALS = 6
PROBABILITY_DECIMALS = 4

Mm = Annotated[float, AfterValidator(partial(round, ndigits=MM_DECIMALS))]

Ml = Annotated[float, AfterValidator(partial(round, ndigits=ML_DECIMALS))]

Probability = Annotated[float, AfterValidator(partial(round, ndigits=PROBABILITY_DECIMALS))]

Confidence = Annotated[float, Field(ge=0, le=1), AfterValidator(partial(round, ndigits=PROBABILITY_DECIMALS))]

Point = Annotated[list[Mm], Field(min_length=3, max_length=3)]

Index = Annotated[list[int], Field(min_length=3, max_length=3)]

Axis = Annotated[list[Point], Field(min_length=2, max_length=2)]

MAX_WAIT_S = 60.0

MAX_BATCH_STUDIES = 1000

# The largest integer that PostgreSQL stores.
MAX_ROW_ID = 2**31 - 1

WaitS = Annotated[
    float | None,
    Field(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the job to end before answering"),
]

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=DICOM_NAME),
    AfterValidator(require_visible),
]


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the year in UTC is not from 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]


class Form(BaseModel):
    """A form that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Query(Form):
    """A query string. Its schema is cached: Flask-OpenAPI3 asks for it in every request."""

    @classmethod
    @cache
    def model_json_schema(  # type: ignore[override]
        cls, *arguments: Any, **options: Any
    ) -> dict[str, Any]:
        return super().model_json_schema(*arguments, **options)


class StudyPath(Form):
    """The UID of a study."""

    study_instance_uid: Uid = Field(description="StudyInstanceUID (0020,000D)")


class WaitForm(Form):
    """How long to wait for the job's end. An absent or empty body does not wait."""

    model_config = ConfigDict(extra="forbid", strict=True)
    # Tells flask-openapi3 that the body is optional.
    model_config["openapi_extra"] = {"required": False}  # type: ignore[typeddict-unknown-key]

    wait_s: WaitS = None

    @model_validator(mode="before")
    @classmethod
    def _absent_body(cls, body: Any) -> Any:
        return {} if body is None else body


class Answer(BaseModel):
    """An answer. Extras are forbidden, so that the document has additionalProperties: false for the tests."""

    model_config = ConfigDict(extra="forbid")
