"""Results, jobs and audit trail in SQL. Independent of web, broker, archive and models."""
