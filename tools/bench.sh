#!/usr/bin/env bash
# Measures, prints tables, and puts them into docs/performance.md. The first
# argument is the time of each Go benchmark; the others are parts, all if there is
# none. micro is every Go benchmark of the repository, kept in bin/bench/micro.txt for
# make bench-compare; the others are those of internal/bench (go run -C internal/bench . -h).
#
# ETCD names programs of etcd to compare with, comma-separated; without it the
# one that internal/bench/go.mod names is built, and one that is installed is
# measured too. DOC is the document, "" for none.
# BENCHFLAGS go to the program of all parts but micro.
set -euo pipefail
cd "$(dirname "$0")/.."

go="${GO:-go}"
time="${1:-300ms}"
doc="${DOC-docs/performance.md}"
shift || true
parts=("$@")
[ "${#parts[@]}" -gt 0 ] || parts=(micro all)

# Six times, as benchstat wants for a test of significance.
micro() {
	local packages
	mapfile -t packages < <(tools/benchmarks.sh)
	mkdir -p bin/bench
	"$go" test -run '^$' -bench . -benchmem -benchtime "$time" -count 6 "${packages[@]}" | tee bin/bench/micro.new
	mv bin/bench/micro.new bin/bench/micro.txt
}

build_etcd() {
	if ! "$go" build -C internal/bench -buildvcs=false -o ../../bin/bench/etcd go.etcd.io/etcd/server/v3; then
		echo "etcd cannot be built: it needs the modules of internal/bench/go.mod. Name an installed one instead," >&2
		echo "as of Debian's package etcd-server: make bench PART=$part ETCD=/usr/bin/etcd" >&2
		exit 1
	fi
	etcds=bin/bench/etcd
	if installed="$(command -v etcd)"; then
		etcds+=",$installed"
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

"$go" build -C internal/bench -buildvcs=false -o ../../bin/bench/bench .

# The program is one for these parts, so that they stand beside the same floors. It knows them.
programs=()
for part in "${parts[@]}"; do
	case "$part" in
	micro) ;;
	all) mapfile -t -O "${#programs[@]}" programs < <(bin/bench/bench -list) ;;
	*) programs+=("$part") ;;
	esac
done
redis_server=redis-server
etcds="${ETCD:-}"
for part in "${programs[@]}"; do
	case "$(bin/bench/bench -list -part "$part" -v)" in
	*" etcd"*) [ -n "$etcds" ] || build_etcd ;;
	*" redis"*) find_redis ;;
	esac
done
if [ "${#programs[@]}" -gt 0 ]; then
	# A document that cannot be written is no reason to measure nothing.
	if [ -n "$doc" ] && [ ! -w "$doc" ]; then
		echo "$doc cannot be written: the tables are only printed" >&2
		doc=
	fi
	# shellcheck disable=SC2086 # several flags
	bin/bench/bench -part "$(IFS=,; echo "${programs[*]}")" -doc "$doc" -go "$go" -benchtime "$time" \
		-etcd "$etcds" -redis-server "$redis_server" ${BENCHFLAGS:-}
fi
case " ${parts[*]} " in
*" micro "*) echo "== micro" && micro ;;
esac
