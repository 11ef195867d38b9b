"""The forms and answers of the API, one file per subject; the OpenAPI document is generated from them.

Forms reject unknown keys. Answers have all their fields: an unknown value is null, never left out.
"""
