# One command that runs every check of the project; `make check` before each commit.
.PHONY: check lint types test

check: lint types test

lint:
	ruff check .
	ruff format --check .
	lint-imports
	deptry .

types:
	pyright

test:
	pytest -n 2
