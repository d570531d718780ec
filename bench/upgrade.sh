#!/usr/bin/env bash
# What replacing the binary costs: failures under load, plain and over TLS; how long idle connections stand still and when the old
# process is gone; how much longer answers take meanwhile. Arguments go to each run (`--only handover`, for instance).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
install_peers
build
machine
printf '\n## Ten upgrades under the mix\n\n'
"$bench" reloads --upgrade --count 10 --every-ms 1500 "$@"
printf '\n## Ten upgrades under the mix, over TLS\n\n'
"$bench" reloads --upgrade --count 10 --every-ms 1500 --tls "$@"
printf '\n## Upgrades with 10,000 idle connections\n\n'
"$bench" moves "$@"
printf '\n## Upgrades with 10,000 idle connections, over TLS\n\n'
"$bench" moves --tls "$@"
printf '\n## Answers during upgrades, at half the capacity\n\n'
"$bench" pauses "$@"
printf '\n## Answers during upgrades, at half the capacity, over TLS\n\n'
"$bench" pauses --tls "$@"
