#!/usr/bin/env bash
# Prints how many instructions a request costs above the bare service's, and
# fails if they have become more. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

table=$(cargo bench --quiet --bench report -- instructions)
printf '%s\n' "$table"

# The ratios to `Retry` (0.26, 0.62, 0.62), and about 3 % for what another compiler
# makes of them and of what they are compared with.
most() {
    local ratio
    ratio=$(grep -F "request path, \`$1\`, instructions" <<<"$table" | grep -oE '[0-9]+\.[0-9]+ x')
    awk -v ratio="${ratio% x}" -v most="$2" \
        'BEGIN { if (ratio == "" || ratio > most) { print "more than " most " x"; exit 1 } }'
}
most Never 0.27
most Auto 0.64
most IfEmpty 0.64
