#!/usr/bin/env bash
# What reloads cost: failures under load, time to the new answer, memory. Arguments go to each of the three runs
# (`--only handover`, for instance; `handover-bench reloads --help` lists what else there is).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
install_peers
build
machine
printf '\n## Failures during reloads, one a second, under the mix\n\n'
"$bench" reloads "$@"
printf '\n## From asking to the new answer\n\n'
"$bench" latency "$@"
printf '\n## Memory and processes during reloads, WebSockets held\n\n'
"$bench" memory "$@"
