#!/usr/bin/env bash
# A real pgbouncer in transaction mode on a Debian host, in front of the server of DATABASE_URL, for that login.
#   pgbouncer.sh [start]   install if missing, start if stopped, print the URL (last line of stdout)
#   pgbouncer.sh stop | status | url | install
# Environment: DATABASE_URL; PGB_POOL=connections to the server (20); PGB_PORT=port; PGV_HOME=folder;
#   PGB_DATA=folder for one of its own with the same program
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"
home=${PGV_HOME:-/var/tmp/pgv-$(id -u)}/pgbouncer
root=$home/root program=$home/root/usr/sbin/pgbouncer data=${PGB_DATA:-$home/data}

install_pgbouncer() {
  [ -e "$home/.installed" ] && return
  unpack_debian trixie pgbouncer "$root" usr/sbin \
    'perl|perl-.*|libperl.*|locales|libc-l10n|debconf|openssl|adduser|passwd|ucf|netbase|sensible-utils|gcc-.*-base|postgresql-common.*|python3.*|libpython3.*|lsb-.*|sysvinit-utils'
  "$program" -V >&2
  touch "$home/.installed"
}
running() { [ -e "$data/pid" ] && kill -0 "$(cat "$data/pid")" 2>/dev/null; }
start() {
  install_pgbouncer
  if ! running; then
    [[ ${DATABASE_URL:-} =~ ^postgres(ql)?://([^:]+):([^@]+)@([^:/]+):([0-9]+)/([^?]+) ]] ||
      { echo "DATABASE_URL must be postgres://user:password@host:port/database" >&2; exit 2; }
    local user=${BASH_REMATCH[2]} password=${BASH_REMATCH[3]} host=${BASH_REMATCH[4]} port=${BASH_REMATCH[5]}
    local own=${PGB_PORT:-$(free_port)}
    mkdir -p "$data"; chmod 700 "$data"
    # it signs in to the server itself, which no hash of a password suffices for
    (umask 077; printf '"%s" "%s"\n' "$user" "$password" >"$data/userlist.txt")
    cat >"$data/pgbouncer.ini" <<CONF
[databases]
* = host=$host port=$port
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $own
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $data/userlist.txt
pool_mode = transaction
default_pool_size = ${PGB_POOL:-20}
max_client_conn = 2000
pidfile = $data/pid
logfile = $data/log
log_connections = 0
log_disconnections = 0
CONF
    echo "postgres://$user:$password@127.0.0.1:$own/${BASH_REMATCH[6]}" >"$data/url"
    [ "$(id -u)" != 0 ] || chown -R "$owner" "$data"
    ulimit -n "$(ulimit -Hn)"
    as "$program" -q -d "$data/pgbouncer.ini" >&2
    for _ in $(seq 100); do
      (: <"/dev/tcp/127.0.0.1/$own") 2>/dev/null && break
      sleep 0.05
    done
    running || { tail -20 "$data/log" >&2; exit 1; }
  fi
  cat "$data/url"
}
# those that are connected are cut off
stop() {
  running || return 0
  local pid; pid=$(cat "$data/pid"); kill -TERM "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
}
mkdir -p "$home"
command=${1:-start}; [ $# = 0 ] || shift
case $command in
  start) exec 9>"$home/.lock"; flock 9; start 9>&- ;;
  install) exec 9>"$home/.lock"; flock 9; install_pgbouncer ;;
  stop) stop ;;
  status) if running; then echo running; else echo stopped; exit 3; fi ;;
  url) if running; then cat "$data/url"; else echo "not running" >&2; exit 3; fi ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
