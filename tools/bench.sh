#!/usr/bin/env bash
# Measures, and prints tables for docs/performance.md. The first argument is the
# time of each Go benchmark; the others are parts, all if there is none:
#
#   micro    every Go benchmark of the repository
#   guard    the write guard and a reading of its clock, on one core and on two
#   move     how long a move of an empty scope keeps it closed
#   mirrors  one change at 1,000 mirrors, beside etcd
#   commits  changes a second and their latency with 1 to 256 clients, beside etcd
#   failover how long nobody can write after the leader was killed, beside etcd
#   million  what a million scopes cost: memory, snapshots, starts, a restore
#   resp     how many keys are routed over the Redis protocol, beside a Redis
#   gate     a Redis through its gate and directly
#   ship     a scope of 100,000 keys moves between two gates while it is written
#
# ETCD names programs of etcd to compare with, comma-separated; without it the
# one that internal/bench/go.mod names is built. BENCHFLAGS go to the program of
# the parts move, mirrors, commits, failover, million, resp, gate and ship (see go run -C internal/bench . -h).
set -euo pipefail
cd "$(dirname "$0")/.."

go="${GO:-go}"
time="${1:-1s}"
shift || true
parts=("$@")
[ "${#parts[@]}" -gt 0 ] || parts=(micro guard move mirrors commits failover million resp gate ship)

micro() {
	local packages
	mapfile -t packages < <(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -r -n1 dirname | LC_ALL=C sort -u)
	"$go" test -run '^$' -bench . -benchmem -benchtime "$time" "${packages[@]}"
}

# Five times, for a median: other work on the machine shows in one of them or two.
guard() {
	"$go" test -run '^$' -bench '^Benchmark(GuardWrite|Clock)$' -benchmem -benchtime "$time" -cpu 1,2 -count 5 ./client
}

build_etcd() {
	if ! "$go" build -C internal/bench -buildvcs=false -o ../../bin/bench/etcd go.etcd.io/etcd/server/v3; then
		echo "etcd cannot be built: it needs the modules of internal/bench/go.mod. Name an installed one instead," >&2
		echo "as of Debian's package etcd-server: make bench PART=$part ETCD=/usr/bin/etcd" >&2
		exit 1
	fi
}

# Redis is one program of several names: with redis-benchmark alone, as of Debian's
# package redis-tools, which starts no daemon, the server is there as redis-check-rdb.
find_redis() {
	redis_server="$(command -v redis-server || true)"
	if [ -z "$redis_server" ] && redis_server="$(command -v redis-check-rdb)"; then
		mkdir -p bin/bench
		ln -sf "$redis_server" bin/bench/redis-server
		redis_server=bin/bench/redis-server
	fi
	if [ -z "$redis_server" ] || ! command -v redis-benchmark >/dev/null; then
		echo "redis-server or redis-benchmark is not installed: Debian's package redis-tools has both, the server under" >&2
		echo "another name (apt-get install redis-tools). Or leave this part out: make bench PART=\"guard move\"" >&2
		exit 1
	fi
}

# The program is one for these parts, so that they stand beside the same floors.
programs=()
redis_server=redis-server
for part in "${parts[@]}"; do
	case "$part" in
	micro | guard) echo "== $part" && "$part" ;;
	move | million) programs+=("$part") ;;
	mirrors | commits | failover)
		programs+=("$part")
		[ -n "${ETCD:-}" ] || build_etcd
		;;
	resp | gate | ship) programs+=("$part") && find_redis ;;
	*)
		echo "part '$part' is unknown: choose of micro, guard, move, mirrors, commits, failover, million, resp, gate and ship" >&2
		exit 2
		;;
	esac
done
if [ "${#programs[@]}" -gt 0 ]; then
	"$go" build -C internal/bench -buildvcs=false -o ../../bin/bench/bench .
	# shellcheck disable=SC2086 # several flags
	exec bin/bench/bench -part "$(IFS=,; echo "${programs[*]}")" -etcd "${ETCD:-bin/bench/etcd}" -redis-server "$redis_server" ${BENCHFLAGS:-}
fi
