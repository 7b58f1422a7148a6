# For the scripts beside this one. A Python that is neither on PATH nor one of pyenv's is not found.

find_python() {
  # A name on PATH may be pyenv's stand-in for a Python that is not switched on, so it has to run.
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != (${1/./, }))" 2>/dev/null; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}
