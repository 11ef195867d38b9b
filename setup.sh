#!/bin/sh
# Set-up of a bare machine, called by make: ./setup.sh run | training | viewer | python | all
#   run       a virtual environment with requirements.txt
#   training  and requirements-training.txt
#   viewer    run, and the OHIF viewers of ohif/package.json, and what of Debian's serves them beside MetScope
#   python    training, and the tools of requirements-dev.txt
#   all       all of these, and Debian's packages that the tests drive: databases, a browser, DICOM validators
# Each level leaves a stamp in .venv, so that make calls it again only when a list has changed.
set -eu
cd "$(dirname "$0")"
level=${1:?usage: ./setup.sh run|training|viewer|python|all}

fail() { echo "setup: $1" >&2; exit 1; }

# debian PACKAGE...: install them where this user may, else say which are missing.
debian() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: Debian packages $*"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        fail "missing: Debian's packages $* (as root: apt-get install $*)"
    fi
}

find_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
        then echo "$name"; return; fi
    done
}

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    python=$(find_python)
    # Debian's python3 comes without what a virtual environment needs.
    if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        debian python3 python3-venv
        python=$(find_python)
        [ -n "$python" ] || fail "Python 3.11 or newer is missing"
    fi
    "$python" -m venv .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

echo "setup: Python packages (some minutes the first time)"
# torch first and alone: with the pinned release present, nothing that follows draws in another build.
pip install "$(grep '^torch==' requirements.txt)"
pip install -r requirements.txt
touch .venv/installed
[ "$level" = run ] && exit 0

if [ "$level" != viewer ]; then
    pip install -r requirements-training.txt
    touch .venv/training
    [ "$level" = training ] && exit 0
    pip install -r requirements-dev.txt
    touch .venv/tools-python
    [ "$level" = python ] && exit 0
fi

has() { for path in "$@"; do [ -e "$path" ] && return 0; done; return 1; }
set --
command -v npm >/dev/null || set -- "$@" npm
has /usr/sbin/nginx || set -- "$@" nginx
has /usr/sbin/Orthanc /usr/bin/Orthanc || set -- "$@" orthanc
has /usr/share/orthanc/plugins/libOrthancDicomWeb.so || set -- "$@" orthanc-dicomweb
[ $# = 0 ] || debian "$@"
ohif/fetch.sh
touch .venv/viewer
[ "$level" = viewer ] && exit 0

set --
has /usr/bin/dciodvfy || set -- "$@" dicom3tools
has /usr/bin/redis-server || set -- "$@" redis-server
has /usr/lib/postgresql/*/bin/pg_ctl || set -- "$@" postgresql
has /usr/bin/chromium || set -- "$@" chromium
has /usr/bin/curl || set -- "$@" curl
has /usr/bin/openssl || set -- "$@" openssl
has /usr/bin/sqlite3 || set -- "$@" sqlite3
has /usr/bin/docker-compose || set -- "$@" docker-compose
[ $# = 0 ] || debian "$@"
touch .venv/tools
