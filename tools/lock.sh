#!/bin/sh
# Writes requirements.lock: what pyproject.toml asks for, with the hashes of all of a release's files (so
# for each supported Python and architecture), without the address of the index they were read from.
#
# Versions that are locked already are kept; `tools/lock.sh --upgrade` takes the newest that are allowed.
set -eu
cd "$(dirname "$0")/.."
workshop=$(mktemp -d)
trap 'rm -rf "$workshop"' EXIT
"$(tools/find-python.sh)" -m venv "$workshop/venv"
"$workshop/venv/bin/pip" --quiet --disable-pip-version-check install pip-tools
# A machine's own constraints and extra sources must not show in the lock.
PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' PIP_CONSTRAINT='' "$workshop/venv/bin/pip-compile" --quiet \
    --generate-hashes --strip-extras --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
    --extra dev --output-file requirements.lock "$@" pyproject.toml
