#!/usr/bin/env bash
# CPU per request and requests per second: handover, nginx, HAProxy, taking turns. Arguments go to
# `handover-bench compare`.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
install_peers
build
machine
exec "$bench" compare "$@"
