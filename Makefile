# Set-up, demo, checks. Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODELS ?= .models
EXTRAS := onnx,openvino,train,evaluate,embedders,offline,ray,serve,docs,dev

# How many processes run tests at once - one more than cores, as some tests wait - and the Pythons of `make test-pythons`.
WORKERS ?= 3
PYTHONS ?= 3.11 3.12 3.13

# The index that torch comes from, if not pip's own: with https://download.pytorch.org/whl/cpu it is a build without CUDA.
TORCH_INDEX ?=
TORCH := "$$(grep '^torch==' constraints.txt)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

export HAYSTACK_TELEMETRY_ENABLED ?= False
export HF_HUB_OFFLINE ?= 1
export CE_RANKER_MODELS ?= $(MODELS)

.PHONY: demo check quick test suite long-properties fuzz audit test-pythons test-packages light-requirements test-oldest-haystack check-opensearch lint docs format bench models clean

NEW_VENV = $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)

# What the demo needs, without torch (docs/installing.md). Bytecode is left to the first import: most is never imported.
$(VENV)/.light: pyproject.toml requirements-light.txt
	$(NEW_VENV)
	$(BIN)/python -m pip install --quiet --no-deps --no-compile -r requirements-light.txt -e .
	touch $@

# All the rest, in the same environment, which `make demo` may have begun.
# torch comes first and pinned: with it in place nothing else pulls another build.
# faiss-haystack asks for numpy 1 on Python before 3.13, but works with 2, so it lies beside the environment (.stores).
$(VENV)/.installed: pyproject.toml constraints.txt requirements-light.txt
	$(NEW_VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-warn-conflicts $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -c requirements-light.txt -e ".[$(EXTRAS)]"
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .stores "$$(grep '^faiss-haystack==' constraints.txt)"
	[ ! -f $(VENV)/.light ] || $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	touch $(VENV)/.light $@

demo: $(VENV)/.light
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

# One thread per process: a worker computes in one core at most. Each takes whole files, the longest first.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# What a change must pass before it is shown to others.
check: lint quick

quick: $(VENV)/.installed
	$(PYTEST) -q -m "not slow and not integration"

# All that CI does.
test: lint docs suite test-oldest-haystack

suite: models
	$(PYTEST) --hypothesis-profile=ci --cov --cov-report=term

# Random files for all readers, in rounds of some minutes with other examples in each.
PROPERTY_SECONDS ?= 3600

long-properties: $(VENV)/.installed
	end=$$(($$(date +%s) + $(PROPERTY_SECONDS))); while [ $$(date +%s) -lt $$end ]; do \
	  $(BIN)/python -m pytest -q --hypothesis-profile=long tests/data/test_reader_properties.py || exit 1; \
	done

# Random files again, led by what they make run: each target of tests/fuzz_targets.py for so many seconds.
SECONDS ?= 60

fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	$(BIN)/python tests/fuzz.py --seconds $(SECONDS)

# Whether advisories are known for what is installed. PyPI is asked, or a folder of advisories (SECURITY.md).
ADVISORIES ?=

audit: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[audit]"
	$(BIN)/python .ci/audit.py $(if $(ADVISORIES),--advisories $(ADVISORIES))

# The quick part on every supported Python; those that this machine lacks are named.
test-pythons:
	.ci/test-pythons $(PYTHONS)

# The wheel and the sdist in new environments on each Python, with torch and without; some minutes for each.
test-packages:
	.ci/test-packages $(PYTHONS)

# Writes requirements-light.txt again after pyproject.toml or constraints.txt changed.
light-requirements: $(VENV)/.installed
	$(BIN)/python .ci/light_requirements.py --write

# The components' tests again on older releases of Haystack, laid over the installed one: each in one process, beside the
# others, and its output at its end. Left out are those that compare with Haystack's own BM25 and its error messages.
HAYSTACKS ?= 2.24.1 2.31.0
FORMS := tests/adopting/test_forms.py
OVERLAID := $(FORMS)::test_all_load_in_a_fresh_process $(FORMS)::test_the_same_documents_come_back tests/components tests/evaluation/running/test_pipelines.py tests/test_examples.py tests/test_readme.py tests/cli

test-oldest-haystack: $(VENV)/.installed
	$(MAKE) --no-print-directory --jobs $(WORKERS) $(addprefix test-haystack-,$(HAYSTACKS))

test-haystack-%: $(VENV)/.installed
	[ -d .haystack/$* ] || $(BIN)/python -m pip install --quiet --no-deps --target .haystack/$* haystack-ai==$*
	PYTHONPATH=.haystack/$* OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(OVERLAID) \
	  -k "not haystacks_okapi and not are_haystacks and not refused_alike" >.haystack/$*.log 2>&1; \
	  status=$$?; echo "Haystack $*:"; cat .haystack/$*.log; exit $$status

# The example for OpenSearch against a real server: one that CE_RANKER_OPENSEARCH names, or that is started here.
check-opensearch: $(VENV)/.installed
	.ci/check-opensearch $(BIN)/python

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: models
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

clean:
	rm -rf $(VENV) .venv-3.* $(MODELS) .haystack .stores .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .coverage* .bench site dist
