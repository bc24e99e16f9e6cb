#!/usr/bin/env bash
# Tells by benchstat what is slower or faster than at BASE, which is a revision of git
# or a file with the output of go test -bench. The first argument is the time of each
# run of each Go benchmark. Of a revision both trees are measured now, in turns, so that
# what else the machine does is in both; of a file, bin/bench/micro.txt is compared with it.
#
# PKG names packages (all that have benchmarks), BENCH is a regular expression (all).
set -euo pipefail
cd "$(dirname "$0")/.."

go="${GO:-go}"
time="${1:-300ms}"
base="${BASE:-HEAD}"
rounds=6 # the least that benchstat tells significance of

compare() { "$go" tool -modfile=tools/go.mod benchstat "$@"; }

if [ -f "$base" ]; then
	if [ ! -f bin/bench/micro.txt ]; then
		echo "bin/bench/micro.txt is missing: run make bench PART=micro first" >&2
		exit 1
	fi
	compare "base=$base" now=bin/bench/micro.txt
	exit
fi
if ! commit="$(git rev-parse --verify --quiet "$base^{commit}")"; then
	echo "BASE=$base is neither a file nor a revision" >&2
	exit 2
fi
tree="$(mktemp -d)"
trap 'git worktree remove --force "$tree/base" && rm -rf "$tree"' EXIT
git worktree add --quiet --detach "$tree/base" "$commit"
mkdir -p bin/bench
: >bin/bench/base.txt
: >bin/bench/now.txt
measure() {
	local packages
	read -ra packages <<<"${PKG:-}"
	[ "${#packages[@]}" -gt 0 ] || mapfile -t packages < <(tools/benchmarks.sh "$1")
	"$go" test -C "$1" -run '^$' -bench "${BENCH:-.}" -benchmem -benchtime "$time" "${packages[@]}"
}
for ((i = 0; i < rounds; i++)); do
	measure "$tree/base" >>bin/bench/base.txt
	measure . >>bin/bench/now.txt
done
compare base=bin/bench/base.txt now=bin/bench/now.txt
