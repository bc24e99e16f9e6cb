#!/usr/bin/env bash
# Runs each fuzz target of the repository for the given time (default 10s), one
# after the other: go test fuzzes one target at a time. Targets are found in the
# sources, so that a new one takes part by being written.
set -euo pipefail
cd "$(dirname "$0")/.."

go="${GO:-go}"
time="${1:-10s}"

count=0
while IFS=: read -r file line; do
	target="$(sed -E 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/' <<<"$line")"
	folder="$(dirname "$file")"
	echo "== $folder $target"
	# Go makes each input that reached something new as small as it can, for up to
	# a minute each: most of a short run would go by without a new input tried.
	"$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1000x "$folder" </dev/null
	count=$((count + 1))
done < <(grep -rHE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | LC_ALL=C sort)

if [ "$count" -eq 0 ]; then
	echo "no fuzz targets found" >&2
	exit 1
fi
echo "fuzzed $count targets, $time each"
