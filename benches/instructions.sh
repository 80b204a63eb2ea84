#!/usr/bin/env bash
# Prints how many instructions a request costs above the bare service's, and
# fails if they have become more. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

table=$(cargo bench --quiet --bench report -- instructions)
printf '%s\n' "$table"

# What they are (2.29 and 1.05), and about 4 % for what another compiler makes of
# them and of what they are compared with.
most() {
    local ratio
    ratio=$(grep -F "$1" <<<"$table" | grep -oE '[0-9]+\.[0-9]+ x' | tail -n 1)
    awk -v ratio="${ratio% x}" -v most="$2" \
        'BEGIN { if (ratio == "" || ratio > most) { print "more than " most " x"; exit 1 } }'
}
most 'request path, `Never`, instructions' 2.4
most 'request path, `Auto`, instructions' 1.09
