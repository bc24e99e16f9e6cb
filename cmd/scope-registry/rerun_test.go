package main

import (
	"net/http"
	"strings"
	"testing"
)

// The same --id again is the same move. One that has ended is not shipped again:
// its target serves by now, and may have newer records.
func TestMoveRunAgain(t *testing.T) {
	at := moving(t)
	launchMove(t, at, "true").end(t, 0)
	again := launchMove(t, at, "echo ran >&2")
	again.end(t, 0, `(?m)^move m1 was done before; the ship command did not run$`)
	if got := again.stdout.String(); got == "" {
		t.Error("the move was not shown")
	}
	runLines(t, at, []line{{"move cleaned m1 --reason gone", 0, ""}})
	back := func(id, command string) *running {
		return launch(t, at, "move", "run", "app:", "--from", "b", "--to", "a", "--id", id, "--exec", command)
	}
	back("m2", "false").end(t, 4, "was aborted")
	back("m2", "true").end(t, 4, "WRONG_PHASE: move m2 was there before, in mode assisted, and is aborted; the ship command did not run")
	back("m1", "true").end(t, 4, "EXISTS")
	runLines(t, at, []line{{"route app:1 --as b", 0, "OK"}})
}

// Who does not learn whether a move started can still look for it.
func TestMoveStartUnknown(t *testing.T) {
	at := moving(t)
	proxy := between(t, at, func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.Method == http.MethodPost {
			panic(http.ErrAbortHandler) // the connection breaks
		}
		server.ServeHTTP(w, r)
	})
	launch(t, proxy, strings.Fields("move start app: --from a --to b --timeout 300ms")...).end(t, 8, `OUTCOME_UNKNOWN: .*Look at: move status mv-[0-9a-f]{16}; if there is none`)
}
