#!/usr/bin/env bash
# The whole of it: hosts, units, addresses, store, and what goes wrong with them in their lives. Clients write meanwhile,
# and everything that was acknowledged is read back.
set -euo pipefail
. "$(dirname "$0")/scripts.bash"

case $1 in
    --lab)
        build
        say "holdfast lab demo: write, cut the power of the primary, read everything back, switch over"
        cargo run --quiet --bin holdfast -- lab demo
        tests faults sigkill sigstop power_off
        tests switchover
        tests kills
        tests hooks
        ;;
    --hosts)
        build
        hosts readme::       # the README's commands on bare Debian
        hosts everyday::     # reboots, power cuts, kill -9, want of memory, a broken configuration, cold boots
        hosts packages::     # upgrade under load, refused downgrade, purge
        hosts services::     # HAProxy and PostgreSQL move along
        ;;
    *) usage ;;
esac
say "everything held"
