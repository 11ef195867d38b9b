"""What the API takes and gives, a file for each subject; the OpenAPI document is made from these classes.

Forms refuse unknown keys. Answers are written out in full: an unknown value is null, never left out.
"""
