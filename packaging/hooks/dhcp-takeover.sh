#!/usr/bin/env bash
# When this member takes over, after all replicated files are in their places and before services start. As
# /etc/holdfast/dhcp-takeover.sh, mode 755, owner root; `on_takeover` of the block `sync_files "dhcp"`.
#
# dhcpd without its leases gives addresses twice. Better no DHCP for the moment: with `veto = true` in the block the
# role goes to a member that has them. On a new cluster the first host needs the file, empty:
# `touch /var/lib/dhcp/dhcpd.leases`.
set -euo pipefail

leases=/var/lib/dhcp/dhcpd.leases
if ! [[ -f $leases ]]; then
    printf '%s is missing on %s\n' "$leases" "$HOLDFAST_NODE"
    exit 1
fi
