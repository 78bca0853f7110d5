#!/usr/bin/env bash
# A standby that was away, lost its log, or has damaged bytes has in the end what the primary has, byte for byte, and
# serves it alone.
set -euo pipefail
. "$(dirname "$0")/scripts.bash"

case $1 in
    --lab)
        build
        tests stream
        tests resync
        tests damage
        tests standby_reads
        ;;
    --hosts)
        build
        hosts network::a_standby
        ;;
    *) usage ;;
esac
say "everything held"
