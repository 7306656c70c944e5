#!/bin/sh
# Prints the path of a Python of version 3.11 or later that can make virtual environments.
# PYTHON names another one than those looked for.
set -eu
for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    # By its own word: a name on PATH may be a version manager's script.
    if "$name" -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11); print(sys.executable)' \
        2>/dev/null; then
        exit 0
    fi
done
exit 1
