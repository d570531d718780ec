# Shared by the scripts here: builds what is measured, and installs what it is compared with.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(nginx libnginx-mod-stream haproxy wrk)

install_peers() {
    local missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
        # The packages start services of their own; only those that this run starts are wanted.
        for service in nginx haproxy; do
            if [ -d /run/systemd/system ]; then systemctl stop "$service" 2>/dev/null || true; fi
        done
    else
        echo "SKIPPED for lack of packages (root and apt would install them): ${missing[*]}" >&2
    fi
}

# Sets $bench to the built program; handover lies beside it.
build() {
    cargo build --quiet --profile dist --package handover-bench --package handover-cli
    bench="${CARGO_TARGET_DIR:-target}/dist/handover-bench"
    ulimit -n "$(ulimit -Hn)"
}

machine() {
    echo "$(date -u +%F), $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r)"
}
