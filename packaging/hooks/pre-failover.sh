#!/usr/bin/env bash
# Whether this host may take over: with status 1 it gives the takeover up and says why. As
# /etc/holdfast/pre-failover.sh, mode 755, owner root; in the `ha` block of each data member:
#
#   pre_failover_script = ["/etc/holdfast/pre-failover.sh", "/srv/media"]
#   pre_failover_veto   = true
#
# The arguments are mount points without which the services of this host are no use, and which are there at all
# times: what a `service` block mounts comes after this. What it says is in `holdfast ha history`. It has
# `hook_timeout` (5 s) for all of it, and clients wait meanwhile.
set -euo pipefail

veto() {
    printf 'veto by %s: %s\n' "$HOLDFAST_NODE" "$1"
    exit 1
}

# Somebody works on this host: `echo "disk is being replaced, ask Ann" > /etc/holdfast/no-takeover`. Unlike
# `ha drain` it leaves the member in the in-sync set.
note=/etc/holdfast/no-takeover
if [[ -e $note ]]; then
    reason=
    read -r reason <"$note" || true
    veto "$note is there: ${reason:-no reason is written in it}"
fi

for place in "$@"; do
    mountpoint -q -- "$place" || veto "nothing is mounted at $place"
done

printf '%s may become primary in epoch %s\n' "$HOLDFAST_NODE" "$HOLDFAST_EPOCH"
