"""Rendering of results for people: pictures, surfaces, tables and pages.

slices.py  planes of the patient and outlines, drawn in true proportions
overlay.py pictures of a result and of the model's uncertainty
mesh.py    brain and lesions as surfaces on a web page
tables.py  lesions as a table for spreadsheets
pages.py   HTML pages from templates/
"""
