#!/usr/bin/env bash
# Whether PostgreSQL answers, where it should. As /etc/holdfast/postgresql-check.sh, mode 755, owner root;
# `exec` of a `check` block. Argument: the directory of its socket.
#
# Checks run on every member, and the unit on the primary alone: a standby would count as unhealthy for ever, and
# the primary would have nobody to hand over to. So it is asked only where this member serves as primary.
set -euo pipefail

socket=${1:-/var/run/postgresql}
host=127.0.0.1 port=8080 # `api.listen`

# /primary answers 200 where this member serves as primary, and 503 elsewhere. By bash alone: curl is not on every host.
serves_as_primary() {
    local answer=
    exec 3<>"/dev/tcp/$host/$port" || return 1
    printf 'GET /primary HTTP/1.0\r\nHost: %s\r\n\r\n' "$host" >&3
    read -r -t 1 answer <&3 || return 1
    [[ $answer == HTTP/*\ 200\ * ]]
}

if ! serves_as_primary 2>/dev/null; then
    printf 'not primary here: nothing to ask\n'
    exit 0
fi
exec pg_isready --host="$socket" --timeout=1
