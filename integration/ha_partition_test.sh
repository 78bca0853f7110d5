#!/usr/bin/env bash
# Cables that are pulled, switches that swallow packets, directions that fail: at most one member serves, nothing that was
# acknowledged is lost, and when the network is mended nobody has to lend a hand.
set -euo pipefail
. "$(dirname "$0")/scripts.bash"

case $1 in
    --lab)
        build
        tests quorum
        tests paths
        tests faults cable deaf not_heard hears_nobody
        tests damage cut_off
        ;;
    --hosts)
        build
        hosts network::a_partition
        ;;
    *) usage ;;
esac
say "everything held"
