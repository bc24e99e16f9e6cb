package client

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// refuseAt answers as a state does that has applied the index.
func refuseAt(code api.Code, index uint64) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.HeaderIndex, fmt.Sprint(index))
		w.WriteHeader(code.HTTPStatus())
		fmt.Fprintf(w, `{"code":%q,"detail":"d","index":%d}`, code, index)
	}
}

// After a try that may have been applied only the state itself can say that it
// was not: a server that is too busy to ask it says nothing about that try.
func TestRefusalAfterUnsure(t *testing.T) {
	for name, c := range map[string]struct {
		second http.HandlerFunc
		want   api.Code
	}{
		"too busy":                  {refuse(api.Limit), api.OutcomeUnknown},
		"not let in":                {refuse(api.Forbidden), api.OutcomeUnknown},
		"forgotten by the state":    {refuseAt(api.RequestExpired, 9), api.OutcomeUnknown},
		"refused by the state":      {refuseAt(api.Exists, 9), api.Exists},
		"over a limit of the state": {refuseAt(api.Limit, 9), api.Limit},
	} {
		cl := servers(t, when(cut), when(c.second))
		_, err := cl.client().SetNode(t.Context(), api.Node{ID: "a"})
		if !is(err, c.want) || len(cl.requests()) != 2 {
			t.Errorf("%s: %v after %d requests, want %s", name, err, len(cl.requests()), c.want)
		}
	}
}

// A renewal and a report are no entries of the log: they carry no request id,
// are tried again, and end in TIMEOUT, not in an outcome that nobody knows.
func TestRenewalsAreTriedAgain(t *testing.T) {
	for name, ask := range map[string]func(*Client) error{
		"renew": func(c *Client) error {
			_, err := c.Renew(t.Context(), Renewal{Session: "s1", View: 7})
			return err
		},
		"report": func(c *Client) error { return c.Report(t.Context(), Report{Move: "m1", Session: "s1"}) },
	} {
		for _, first := range []http.HandlerFunc{cut, refuse(api.Timeout), refuse(api.NoLeader), refuse(api.OutcomeUnknown)} {
			cl := servers(t, first, ok(api.Renewed{Index: 9}))
			if err := ask(cl.client()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := cl.requests(); len(got) != 2 || got[0].id != "" || got[1].id != "" || got[0].body != got[1].body {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if err := ask(servers(t, cut).client(WithTimeout(300 * time.Millisecond))); !is(err, api.Timeout) {
			t.Errorf("%s: %v", name, err)
		}
		if got := servers(t, refuse(api.Stale), ok(api.Renewed{})); name == "renew" && (!is(ask(got.client()), api.Stale) || len(got.requests()) != 1) {
			t.Errorf("a node that does not follow asked %d times", len(got.requests()))
		}
		cl := servers(t, refuse(api.SessionExpired), ok(api.Renewed{}))
		if err := ask(cl.client()); !is(err, api.SessionExpired) || len(cl.requests()) != 1 {
			t.Errorf("%s: %v after %d requests", name, err, len(cl.requests()))
		}
	}
}

// A client that did nothing for long makes its first id from an old index.
func TestIdleClientTakesANewID(t *testing.T) {
	cl := servers(t, when(inTurn(refuseAt(api.RequestExpired, 90_000), ok(api.Applied{Index: 90_001}))))
	if a, err := cl.client().SetNode(t.Context(), api.Node{ID: "a"}); err != nil || a.Index != 90_001 {
		t.Errorf("%+v, %v", a, err)
	}
	got := cl.requests()
	if len(got) != 2 || !strings.HasPrefix(got[0].id, "7-") || !strings.HasPrefix(got[1].id, "90000-") || got[0].body != got[1].body {
		t.Errorf("%+v", got)
	}
}

// A POST that is sent on elsewhere becomes a GET, which changes nothing.
func TestRedirectsAreNotFollowed(t *testing.T) {
	other := httptest.NewServer(ok(api.Move{ID: "m1"}))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		cl := servers(t, when(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+r.URL.Path, status) }))
		m, err := cl.client().StartMove(t.Context(), api.StartMove{ID: "m1"})
		if !is(err, api.Invalid) || !strings.Contains(err.Error(), other.URL) || m.ID != "" || len(cl.requests()) != 1 {
			t.Errorf("%d: %+v, %v", status, m, err)
		}
	}
}

// A good status alone does not say that a change was made.
func TestGoodStatusIsNoAnswer(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"empty":           func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(api.HeaderIndex, "7") },
		"of a stranger":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") },
		"without content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	} {
		cl := servers(t, when(answer))
		if _, err := cl.client().SetNode(t.Context(), api.Node{ID: "a"}); !is(err, api.Internal) {
			t.Errorf("%s: %v", name, err)
		}
		if err := cl.client().Transfer(t.Context(), "a"); !is(err, api.Internal) && name != "empty" { // which has nothing to say
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The server that refused is asked next, and no server may show a move as it was
// before: a refusal can be that the move is done.
func TestMoveIsNotShownFromBefore(t *testing.T) {
	cl := servers(t, when(refuse(api.NoLeader)), when(inTurn(refuseAt(api.WrongPhase, 12), ok(api.Move{ID: "m1", Phase: "done"}))))
	c := cl.client()
	if _, err := c.Abort(t.Context(), "m1", "r"); !is(err, api.WrongPhase) {
		t.Fatal(err)
	}
	if m, err := c.Move(t.Context(), "m1", 0); err != nil || m.Phase != "done" {
		t.Errorf("%+v, %v", m, err)
	}
	if got := cl.requests(); len(got) != 3 || got[2].server != 1 || got[2].target != "/v1/moves/m1?min_index=12" {
		t.Errorf("%+v", got)
	}
}
