#!/usr/bin/env bash
# What renewing certificates costs: time until a handshake shows the new one among 1,000 and 10,000, memory afterwards,
# and failures while a listener's pair alternates a hundred times under TLS load. Arguments go to each of the two runs
# (`--only handover`, for instance).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
install_peers
build
machine
printf '\n## One certificate of many renewed\n\n'
"$bench" renewals "$@"
printf '\n## A hundred reloads with certificates alternating, under TLS load\n\n'
"$bench" reloads --tls --count "${RELOADS:-100}" "$@"
