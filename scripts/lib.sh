# shellcheck shell=bash
# What the scripts share: the PostgreSQL in use, and private clusters on a unix socket.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
unset PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGOPTIONS
PG_CONFIG=${PG_CONFIG:-$(command -v pg_config || echo /usr/bin/pg_config)}

sudo_() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# initdb and postgres refuse to run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        (cd /tmp && runuser -u postgres -- "$@")
    else
        (cd /tmp && "$@")
    fi
}

# Debian 12 packages the project needs to build, run and test; installs what is missing.
setup() {
    [ -z "${CRM_SKIP_SETUP:-}" ] || return 0
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}"
    sudo_ apt-get -qq update
    # The server package would start a cluster of its own; we want only the programs.
    sudo_ mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' | sudo_ tee /etc/postgresql-common/createcluster.d/crm.conf >/dev/null
    sudo_ env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

# The same for what a test can do without: where it cannot be had, the test says that it skips.
setup_optional() {
    (setup "$@") || echo "not installed: $*; tests that need them are skipped"
}

build_packages=(gcc g++ make pkg-config libc6-dev postgresql-15 postgresql-server-dev-15
                libicu-dev libphonenumber-dev libpsl-dev xz-utils)
test_packages=(libipc-run-perl python3 locales python3-dateutil python3-icalendar python3-psycopg2
               python3-sqlalchemy libical-dev)
client_packages=(nodejs node-pg node-nodemailer)
lint_packages=(clang-format-14 cppcheck shellcheck python3)

build() {
    PG_CONFIG=${PG_CONFIG:-/usr/bin/pg_config}
    make -s -C "$root" -j2 with_llvm=no PG_CONFIG="$PG_CONFIG" >/dev/null
    sudo_ make -s -C "$root" with_llvm=no PG_CONFIG="$PG_CONFIG" install >/dev/null
}

# start_cluster DIR [SETTING=VALUE ...]: a cluster in DIR/data listening on DIR/s only.
start_cluster() {
    local dir=$1 bin
    shift
    bin=$("$PG_CONFIG" --bindir)
    mkdir -p "$dir/s"
    if [ "$(id -u)" = 0 ]; then chown -R postgres "$dir"; fi
    if [ ! -f "$dir/data/PG_VERSION" ]; then
        as_postgres "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
        as_postgres tee -a "$dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$dir/s'
shared_preload_libraries = 'crm'
max_worker_processes = 16
log_line_prefix = '%m [%p] %q%u@%d '
CONF
        local setting
        for setting in "$@"; do
            echo "${setting%%=*} = '${setting#*=}'" | as_postgres tee -a "$dir/data/postgresql.conf" >/dev/null
        done
    fi
    if ! as_postgres "$bin/pg_ctl" -D "$dir/data" status >/dev/null; then
        as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w start >/dev/null || {
            tail -n 20 "$dir/log" >&2
            return 1
        }
    fi
}

stop_cluster() {
    as_postgres "$("$PG_CONFIG" --bindir)/pg_ctl" -D "$1/data" -m fast -w stop >/dev/null 2>&1 || true
}
