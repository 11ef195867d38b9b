# README's two commands are `make demo` and `make test`; each does all its own set-up.
PYTHON := .venv/bin/python

.PHONY: demo test check serve bench accept up down clean

demo: .venv/installed
	$(PYTHON) demo.py

test: .venv/tools
	$(PYTHON) -m pytest -n auto --dist loadfile

check: .venv/tools-python
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .

serve: .venv/installed
	$(PYTHON) api.py

bench: .venv/tools
	$(PYTHON) -m bench.overhead

accept: .venv/tools
	$(PYTHON) -m bench.accept

# The stack in containers (docs/operations.md).
up:
	docker compose up --build --detach
	docker compose restart nginx

down:
	docker compose down

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache demo

# What runs MetScope; what also checks and tests it; what of Debian's the tests drive.
.venv/installed: requirements.txt setup.sh
	./setup.sh run

.venv/tools-python: requirements.txt requirements-dev.txt setup.sh
	./setup.sh python

.venv/tools: requirements.txt requirements-dev.txt setup.sh
	./setup.sh all
