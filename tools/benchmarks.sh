#!/usr/bin/env bash
# Prints the packages of the main module that have Go benchmarks, in a tree of its
# source: the one that $1 names, else this one.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"
grep -rl --include='*_test.go' --exclude-dir=bench --exclude-dir=testdata '^func Benchmark' . | xargs -r -n1 dirname | LC_ALL=C sort -u
