# What the three scripts beside it have in common. Sourced, not run.
#
#   NAME_test.sh --lab      on network namespaces of this machine: root, or user namespaces
#   NAME_test.sh --hosts    on two machines and a witness under systemd, from the package: root, systemd-container,
#                           mmdebstrap; a mirror of Debian the first time
#
# Exit status: 0 everything held, 1 something did not, 2 usage. With --hosts nothing is skipped: a machine that cannot
# boot such hosts is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" integration/scripts.bash >&2
    exit 2
}
[ $# -eq 1 ] || usage

# say WORDS: what comes now.
say() { printf '\n== %s\n' "$*"; }

build() {
    say "building the program and its packager"
    cargo build --workspace --bin holdfast --bin holdfast-packaging
}

# tests FILE [FILTER...]: the tests of integration/tests/FILE whose names contain one of the filters.
tests() {
    local file=$1
    shift
    say "integration/tests/$file: ${*:-all}"
    # A filter that fits no test any more would pass.
    for filter; do
        cargo test --quiet --workspace --test "$file" -- --list "$filter" | grep -q ': test$' \
            || { echo "no test of $file is called $filter" >&2; exit 1; }
    done
    cargo test --quiet --workspace --test "$file" -- --nocapture "$@"
}

# hosts FILTER...: the tests on real hosts, likewise.
hosts() {
    HOLDFAST_HOSTS=must tests hosts "$@"
}
