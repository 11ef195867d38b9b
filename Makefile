# README's two commands are `make demo` and `make test`; each does all its own set-up.
PYTHON := .venv/bin/python

.PHONY: demo test check serve viewer training bench accept up down clean

demo: .venv/installed
	$(PYTHON) demo.py

test: .venv/tools
	npm --prefix ohif test
	$(PYTHON) -m pytest -n auto --dist loadgroup --no-loadscope-reorder

check: .venv/tools-python
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .

serve: .venv/installed
	$(PYTHON) api.py

training: .venv/training

viewer: .venv/viewer
	$(PYTHON) -m bench.viewer

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
	rm -rf .venv ohif/viewers .mypy_cache .ruff_cache .pytest_cache demo

# What runs MetScope; what trains models; what also checks and tests it; what of Debian's the tests drive.
.venv/installed: requirements.txt setup.sh
	./setup.sh run

.venv/viewer: requirements.txt setup.sh ohif/package.json ohif/fetch.sh
	./setup.sh viewer

.venv/training: requirements.txt requirements-training.txt setup.sh
	./setup.sh training

.venv/tools-python: requirements.txt requirements-training.txt requirements-dev.txt setup.sh
	./setup.sh python

.venv/tools: requirements.txt requirements-training.txt requirements-dev.txt setup.sh ohif/package.json ohif/fetch.sh
	./setup.sh all
