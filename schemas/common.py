"""What the forms and answers of several subjects share."""

from datetime import UTC, datetime
from functools import cache
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

# Looser than the standard: leading zeros do occur in archives.
UID_PATTERN = r"^[0-9]+(\.[0-9]+)*$"

Uid = Annotated[str, Field(max_length=64, pattern=UID_PATTERN)]

# PostgreSQL refuses NUL inside a text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]

Point = Annotated[list[float], Field(min_length=3, max_length=3)]

Index = Annotated[list[int], Field(min_length=3, max_length=3)]

Axis = Annotated[list[Point], Field(min_length=2, max_length=2)]

LONGEST_WAIT_S = 60.0

LARGEST_BATCH = 1000

# What PostgreSQL's integer holds.
LARGEST_ID = 2**31 - 1

WaitS = Annotated[
    float | None,
    Field(ge=0, le=LONGEST_WAIT_S, description="Wait this long for the end before answering"),
]

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f\\]*$"),
]


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the year in UTC is not from 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Query(Form):
    """Flask-OpenAPI3 asks for the schema at every request, and it takes a while to make."""

    @classmethod
    @cache
    def model_json_schema(  # type: ignore[override]
        cls, *arguments: Any, **options: Any
    ) -> dict[str, Any]:
        return super().model_json_schema(*arguments, **options)


class StudyPath(Form):
    study_instance_uid: Uid = Field(description="StudyInstanceUID (0020,000D)")


class WaitForm(Form):
    """An absent or empty body does not wait."""

    model_config = ConfigDict(extra="forbid", strict=True)
    # Read by flask-openapi3: the body may be left out.
    model_config["openapi_extra"] = {"required": False}  # type: ignore[typeddict-unknown-key]

    wait_s: WaitS = None

    @model_validator(mode="before")
    @classmethod
    def _absent_body(cls, body: Any) -> Any:
        return {} if body is None else body


class Answer(BaseModel):
    """Forbidding extras puts additionalProperties: false into the document: a test sees every stray field."""

    model_config = ConfigDict(extra="forbid")
