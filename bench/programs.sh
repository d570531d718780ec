#!/usr/bin/env bash
# What replacing a program costs: gunicorn and Node.js restarted under load, behind the proxy, on a shared socket, and by hand; a swap of
# one that cannot run twice; a rollback to a warm slot; the supervisor with a hundred idle programs. Arguments go to each run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build
# scripts/test has installed gunicorn there.
export HANDOVER_TEST_PYTHON=${HANDOVER_TEST_PYTHON:-$(realpath -m "${CARGO_TARGET_DIR:-target}/python-servers")}
machine
printf '\n## Restarts and swaps under load\n\n'
"$bench" programs --handover "${bench%-bench}" restarts swaps "$@"
printf '\n## Back to a warm slot\n\n'
"$bench" programs --handover "${bench%-bench}" back "$@"
printf '\n## A hundred idle programs\n\n'
"$bench" programs --handover "${bench%-bench}" idle "$@"
