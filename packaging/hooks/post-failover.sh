#!/usr/bin/env bash
# Tells somebody that this member has become primary, or has ceased to be. As /etc/holdfast/post-failover.sh,
# mode 755, owner root. In the `ha` block of each data member, for the first alone:
#
#   post_failover_script = "/etc/holdfast/post-failover.sh"
#
# or, for more:
#
#   hook "notify" {
#     on   = ["primary", "standby", "fault"]
#     exec = ["/etc/holdfast/post-failover.sh"]
#   }
#
# Where to: one URL in /etc/holdfast/notify-url, mode 600, which takes a form by POST. Without that file, and
# without curl, the line is in `holdfast ha history` and in the journal all the same.
set -euo pipefail

line="$HOLDFAST_NODE: $HOLDFAST_EVENT in epoch $HOLDFAST_EPOCH ($HOLDFAST_FROM -> $HOLDFAST_TO): $HOLDFAST_REASON"
printf '%s\n' "$line"

url_file=/etc/holdfast/notify-url
if ! [[ -r $url_file ]] || ! command -v curl >/dev/null; then
    exit 0
fi
url=
read -r url <"$url_file" || true

# The URL is often a secret of its own: curl reads it from a descriptor, so no list of processes shows it.
# Less than `hook_timeout`; a failure changes nothing but the history.
curl --silent --show-error --fail --max-time 4 --output /dev/null \
    --config <(printf 'url = "%s"\n' "$url") \
    --data-urlencode "text=$line" \
    --data-urlencode "node=$HOLDFAST_NODE" \
    --data-urlencode "event=$HOLDFAST_EVENT" \
    --data-urlencode "cause=$HOLDFAST_CAUSE" \
    --data-urlencode "primary=$HOLDFAST_PRIMARY" \
    --data-urlencode "addresses=$HOLDFAST_VIPS"
