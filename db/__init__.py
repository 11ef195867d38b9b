"""Results, jobs and audit in SQL. Knows no web, broker, archive or model."""
