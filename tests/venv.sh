#!/usr/bin/env bash
# Makes .venv. Debian splits the venv module into a package of its own: root gets it from apt, others are told.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

command -v "$python" >/dev/null || { echo "There is no '$python' here. Install Python 3.11 or newer."; exit 1; }
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; '$python' is $version. Name another one with: make PYTHON=python3.11 ..."
    exit 1
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package="python$version-venv"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Python's venv module is missing. Install it and try again; on Debian: sudo apt-get install $package"
        exit 1
    fi
    echo "Installing the Debian package $package."
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$package" >/dev/null
fi

echo "Making .venv with Python $version."
"$python" -m venv --clear .venv
