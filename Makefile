# Set-up, demo, checks. Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODELS ?= .models

export HAYSTACK_TELEMETRY_ENABLED ?= False
export HF_HUB_OFFLINE ?= 1
export CE_RANKER_MODELS ?= $(MODELS)

.PHONY: demo test test-oldest-haystack lint format bench models clean

# torch comes first and pinned: with it in place nothing else pulls a CUDA build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[onnx,openvino,evaluate,embedders,offline,dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/haystack-ce-ranker demo

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Real weights for the integration tests and benchmarks, where the shared folder is there to unpack them from.
models: $(VENV)/.installed
	if [ -f ../shared/tools/get_models.py ]; then $(BIN)/python ../shared/tools/get_models.py $(MODELS); fi

test: lint models
	$(BIN)/python -m pytest --cov --cov-report=term
	$(MAKE) test-oldest-haystack

# The components' tests again on older releases of Haystack, laid over the installed one. Left out are those that compare
# with Haystack's own BM25 and its error messages.
HAYSTACKS ?= 2.24.1 2.31.0
OVERLAID := tests/test_hybrid_score_joiner.py tests/test_cross_encoder_ranker.py tests/test_bm25_retriever.py \
	tests/test_evaluation_pipelines.py tests/test_examples.py tests/test_readme.py tests/test_cli.py

test-oldest-haystack: $(VENV)/.installed
	for version in $(HAYSTACKS); do \
	  [ -d .haystack/$$version ] || \
	    $(BIN)/python -m pip install --quiet --no-deps --target .haystack/$$version haystack-ai==$$version || exit 1; \
	  PYTHONPATH=.haystack/$$version $(BIN)/python -m pytest -q $(OVERLAID) \
	    -k "not haystacks_okapi and not are_haystacks and not refused_alike" || exit 1; \
	done

bench: models
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) $(MODELS) .haystack .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
