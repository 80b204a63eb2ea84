#!/usr/bin/env bash
# Prints how many instructions a request costs above the bare service's, and
# fails if a mark is missed. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

table=$(cargo bench --quiet --bench report -- instructions)
printf '%s\n' "$table"
! grep -qE 'missed|not counted' <<<"$table"
