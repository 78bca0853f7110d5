#!/usr/bin/env bash
# On a standby, after replicated files were placed: would dhcpd start with them? As
# /etc/holdfast/dhcp-changed.sh, mode 755, owner root; `on_change` of the block `sync_files "dhcp"`.
#
# dhcpd does not run here, so there is nothing to restart. A mistake shows today in `ha status`, and not in
# the failover.
set -euo pipefail

config=/etc/dhcp/dhcpd.conf

# One path a line, cut at 32 KiB. Leases change all the time, and say nothing about the configuration.
concerned=no
while IFS= read -r path; do
    if [[ $path == /etc/dhcp/* ]]; then
        concerned=yes
    fi
done <<<"$HOLDFAST_FILES"
if [[ $concerned == no ]]; then
    exit 0
fi

printf '%s files of %s were placed on %s\n' "$HOLDFAST_FILES_COUNT" "$HOLDFAST_FILES_SET" "$HOLDFAST_NODE"
if ! command -v dhcpd >/dev/null; then
    printf 'dhcpd is not installed on this host: it could not take over\n'
    exit 1
fi
exec dhcpd -t -q -cf "$config"
