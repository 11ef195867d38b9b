#!/bin/sh
# Set-up of a bare machine, called by make: ./setup.sh run | python | all
#   run     a virtual environment with requirements.txt
#   python  and the tools of requirements-dev.txt
#   all     and Debian's packages that the tests drive: a PACS, a database, DICOM validators
# Each level leaves a stamp in .venv, so that make calls it again only when a list has changed.
set -eu
cd "$(dirname "$0")"
level=${1:?usage: ./setup.sh run|python|all}

fail() { echo "setup: $1" >&2; exit 1; }

find_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
        then echo "$name"; return; fi
    done
    fail "Python 3.11 or newer is missing; on Debian: apt-get install python3 python3-venv"
}

if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    "$python" -m venv .venv || fail "no virtual environment; on Debian: apt-get install python3-venv"
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

echo "setup: Python packages (some minutes the first time)"
# torch first and alone: with the pinned release present, nothing that follows draws in another build.
pip install "$(grep '^torch==' requirements.txt)"
pip install -r requirements.txt
touch .venv/installed
[ "$level" = run ] && exit 0

pip install -r requirements-dev.txt
touch .venv/tools-python
[ "$level" = python ] && exit 0

has() { for path in "$@"; do [ -x "$path" ] && return 0; done; return 1; }
missing=""
has /usr/sbin/Orthanc /usr/bin/Orthanc || missing="$missing orthanc"
has /usr/lib/postgresql/*/bin/pg_ctl || missing="$missing postgresql"
has /usr/bin/dciodvfy || missing="$missing dicom3tools"
has /usr/sbin/nginx || missing="$missing nginx"
has /usr/bin/redis-server || missing="$missing redis-server"
has /usr/bin/docker-compose || missing="$missing docker-compose"
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$missing orthanc-dicomweb"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: Debian packages$missing"
        apt-get update -qq
        # shellcheck disable=SC2086 # a list of packages
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        fail "the tests need Debian's packages:$missing (as root: apt-get install$missing)"
    fi
fi
touch .venv/tools
