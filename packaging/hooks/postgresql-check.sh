#!/usr/bin/env bash
# Whether PostgreSQL answers, where it should. As /etc/holdfast/postgresql-check.sh, mode 755, owner root;
# `exec` of a `check` block. Argument: the directory of its socket.
#
# Checks run on every member, and the unit on the primary alone: a standby would count as unhealthy for ever, and
# the primary would have nobody to hand over to. So it is asked only where this member serves as primary.
set -euo pipefail

socket=${1:-/var/run/postgresql}
api=http://127.0.0.1:8080

if ! curl --silent --fail --max-time 1 --output /dev/null "$api/primary"; then
    printf 'not primary here: nothing to ask\n'
    exit 0
fi
exec pg_isready --host="$socket" --timeout=1
