#!/bin/sh
# Makes or updates .venv: the packages of requirements.lock, and bouvet itself, editable.
#
# The lock names each package's version and hashes, so the same files are installed wherever pip's own
# settings send it. Only wheels are taken: building a source package would run unpinned tools.
set -eu
cd "$(dirname "$0")/.."

# One make at a time sets up; the next one finds the work done.
exec 9<requirements.lock
flock 9
digest=$(cat requirements.lock pyproject.toml | sha256sum)
if [ -e .venv/.complete ] && [ "$(cat .venv/.complete)" = "$digest" ]; then
    touch .venv/.complete
    exit 0
fi
rm -f .venv/.complete

# An environment whose interpreter has gone (the system's Python was upgraded) is made anew.
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    python=$(tools/find-python.sh) || {
        echo "make: no Python of version 3.11 or later that can make virtual environments (set PYTHON)" >&2
        exit 1
    }
    echo "making the virtual environment .venv with $python"
    "$python" -m venv --clear .venv
fi
pip() {
    .venv/bin/python -m pip -qq --disable-pip-version-check --no-input "$@"
}
echo "installing the locked Python packages"
pip install --no-deps --only-binary :all: --require-hashes --requirement requirements.lock
echo "installing bouvet itself"
pip install --no-deps --no-build-isolation --editable .
echo "$digest" >.venv/.complete
