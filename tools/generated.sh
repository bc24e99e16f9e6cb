#!/usr/bin/env bash
# Regenerates what is checked in but made from something else, or checks that it
# is current: the protobuf code from its schema, docs/openapi.json from the
# handlers, the gate's table of commands and its documentation from Valkey's
# descriptions.
#
#   tools/generated.sh write   overwrite the generated files
#   tools/generated.sh check   generate aside and compare; exit 1 with what
#                              differs
#
# The check compares files, not git's view of them: it says the same in a
# checkout with uncommitted work, and where git does not know the folder.
set -euo pipefail
cd "$(dirname "$0")/.."

openapi=("${GO:-go}" test -count=1 -run '^TestOpenAPIFile$' ./transport/httpapi)
commands=("${GO:-go}" test -count=1 -run '^TestGenerated$' ./internal/gate/commands/generate)
buf=("${GO:-go}" tool -modfile=tools/go.mod buf)

# generated_under lists the generated files below a folder, relative to it.
generated_under() {
	(cd "$1" && find internal/pb -name '*.pb.go' 2>/dev/null | LC_ALL=C sort)
}

case "${1:-}" in
write)
	"${buf[@]}" generate
	generated_under .
	"${openapi[@]}" -update
	echo docs/openapi.json
	"${GO:-go}" run ./internal/gate/commands/generate
	echo internal/gate/commands/table_gen.go
	echo docs/gate-commands.md
	;;
check)
	fresh="$(mktemp -d)"
	trap 'rm -rf "$fresh"' EXIT
	"${buf[@]}" generate -o "$fresh"
	differ=0
	while read -r file; do
		if ! diff -u --label "$file (checked in)" --label "$file (generated now)" \
			"$([ -e "$file" ] && echo "$file" || echo /dev/null)" \
			"$([ -e "$fresh/$file" ] && echo "$fresh/$file" || echo /dev/null)"; then
			differ=1
		fi
	done < <({ generated_under .; generated_under "$fresh"; } | LC_ALL=C sort -u)
	if [ "$differ" -ne 0 ]; then
		echo "generated code is not current: run 'make generate' and check in the result" >&2
		exit 1
	fi
	"${openapi[@]}"
	"${commands[@]}"
	echo "what is generated is current: $(generated_under . | tr '\n' ' ')docs/openapi.json internal/gate/commands/table_gen.go docs/gate-commands.md"
	;;
*)
	echo "usage: $0 write|check" >&2
	exit 2
	;;
esac
