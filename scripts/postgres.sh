#!/usr/bin/env bash
# A real PostgreSQL server with pgvector on a Debian host, without touching the host's packages or libc.
#   postgres.sh [start]   install if missing, start if stopped, print the URL (last line of stdout)
#   postgres.sh stop | status | url | install | reset (stop + delete the data) | psql [args]
# Environment: PGV_PG=17 (Debian trixie, default) or 18 (Debian forky); PGV_HOME=folder; PGV_PORT=port;
#   PGV_DATA=folder for a server of its own with the same programs
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"
PGV_PG=${PGV_PG:-17}
case $PGV_PG in 17) suite=trixie ;; 18) suite=forky ;; *) echo "PGV_PG must be 17 or 18" >&2; exit 2 ;; esac
home=${PGV_HOME:-/var/tmp/pgv-$(id -u)}/$PGV_PG
root=$home/root bin=$home/root/usr/lib/postgresql/$PGV_PG/bin data=${PGV_DATA:-$home/data} password=${PGV_DATA:-$home/}password

install_server() {
  [ -e "$home/.installed" ] && return
  unpack_debian "$suite" "postgresql-$PGV_PG-pgvector" "$root" "usr/lib/postgresql/$PGV_PG/bin" \
    'perl|perl-.*|libperl.*|lib.*-perl|libllvm.*|libz3-.*|locales|libc-l10n|debconf|openssl|openssl-.*|adduser|passwd|procps|ucf|netbase|sensible-utils|gcc-.*-base|postgresql-common.*|postgresql-.*-jit'
  "$bin/postgres" -V >&2
  touch "$home/.installed"
}
running() { [ -e "$data/postmaster.pid" ] && as "$bin/pg_ctl" -D "$data" status >/dev/null 2>&1; }
url() { echo "postgres://postgres:$(cat "$password")@127.0.0.1:$(sed -n 4p "$data/postmaster.pid")/postgres"; }
start() {
  install_server
  if ! running; then
    if [ ! -e "$data/PG_VERSION" ]; then
      [ -n "${PGV_DATA:-}" ] || rm -rf "$data"
      mkdir -p "$data"; chmod 700 "$data"
      (umask 077; od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$password")
      [ "$(id -u)" != 0 ] || chown "$owner" "$data" "$password"
      as "$bin/initdb" -D "$data" -U postgres -A scram-sha-256 --pwfile="$password" -E UTF8 \
        --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 --no-sync >&2
      # a throw-away server for development and tests: durability is off
      cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_preload_libraries = 'pg_stat_statements'
max_connections = 200
fsync = off
synchronous_commit = off
full_page_writes = off
jit = off
timezone = 'UTC'
CONF
    fi
    as "$bin/pg_ctl" -D "$data" -l "$data/server.log" -o "-p ${PGV_PORT:-$(free_port)}" -w start >&2 || { tail -20 "$data/server.log" >&2; exit 1; }
  fi
  url
}
stop() { if running; then as "$bin/pg_ctl" -D "$data" -m fast -w stop >&2; fi; }
mkdir -p "$home"
command=${1:-start}; [ $# = 0 ] || shift
case $command in
  start) exec 9>"$home/.lock"; flock 9; start 9>&- ;;
  install) exec 9>"$home/.lock"; flock 9; install_server ;;
  stop) stop ;;
  status) if running; then echo running; else echo stopped; exit 3; fi ;;
  url) if running; then url; else echo "not running" >&2; exit 3; fi ;;
  reset) stop; rm -rf "$data" ;;
  psql) exec "$bin/psql" "$(url)" "$@" ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
