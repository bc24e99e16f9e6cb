package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
)

func is(err error, code api.Code) bool { return errors.Is(err, &api.Error{Code: code}) }

// closed is an endpoint where nothing listens.
func closed(t *testing.T) string {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + addrs[0]
}

// A server that surely did nothing is passed over, for reads and mutations.
func TestAnotherEndpointIsAsked(t *testing.T) {
	for name, first := range map[string]http.HandlerFunc{
		"NO_LEADER": refuse(api.NoLeader), "UNAVAILABLE": refuse(api.Unavailable), "no room": full, "no registry": stranger,
		"cut off": cut, "OUTCOME_UNKNOWN": refuse(api.OutcomeUnknown),
	} {
		cl := servers(t, when(first), ok(api.Applied{Index: 9}))
		c := cl.client()
		if a, err := c.SetNode(t.Context(), api.Node{ID: "a", Addr: "h:1"}); err != nil || a.Index != 9 {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		got := cl.requests()
		if len(got) != 2 || got[0].server != 0 || got[1].server != 1 || got[0].id == "" || got[0].id != got[1].id || got[0].body != got[1].body {
			t.Errorf("%s: %+v", name, got)
		}
		if _, err := c.Route(t.Context(), []byte("k"), RouteOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := cl.requests(); got[len(got)-1].server != 1 {
			t.Errorf("%s: the server that answered is not asked first", name)
		}
	}
	alive := servers(t, ok(api.Applied{Index: 9}))
	c := New([]string{closed(t), alive.endpoints[0]})
	defer c.Close()
	if _, err := c.RemoveNode(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

// What a state has refused is refused everywhere.
func TestDefiniteRefusalIsFinal(t *testing.T) {
	for _, code := range api.Codes() {
		switch code {
		case api.NoLeader, api.Unavailable, api.OutcomeUnknown, api.RequestExpired, api.Unauthenticated:
			continue
		}
		cl := servers(t, when(refuse(code)), when(ok(api.Applied{})))
		_, err := cl.client().SetNode(t.Context(), api.Node{ID: "a"})
		if !is(err, code) || len(cl.requests()) != 1 {
			t.Errorf("%s: %v after %d requests", code, err, len(cl.requests()))
		}
	}
}

// A read that came too early or too late somewhere may succeed elsewhere.
func TestReadsAreTriedElsewhere(t *testing.T) {
	for _, code := range []api.Code{api.Stale, api.Timeout} {
		cl := servers(t, refuse(code), ok(Nodes{}))
		if _, err := cl.client().Nodes(t.Context()); err != nil {
			t.Errorf("%s: %v", code, err)
		}
	}
}

// Once a try may have been applied, a server that has forgotten the request
// says nothing about it.
func TestExpiredAfterUnsureIsUnknown(t *testing.T) {
	cl := servers(t, when(cut), when(refuse(api.RequestExpired)))
	_, err := cl.client().SetNode(t.Context(), api.Node{ID: "a"})
	if !is(err, api.OutcomeUnknown) || !strings.Contains(err.Error(), cl.requests()[0].id) {
		t.Errorf("%v", err)
	}
	cl = servers(t, when(refuse(api.NoLeader)), when(refuse(api.RequestExpired)))
	if _, err := cl.client().SetNode(t.Context(), api.Node{ID: "a"}); !is(err, api.RequestExpired) {
		t.Errorf("%v", err)
	}
}

// What is said when nobody answers in time. A try that was cut off stays in
// mind, also when the same server then says that it did nothing.
func TestNobodyAnswers(t *testing.T) {
	for _, c := range []struct {
		answers []http.HandlerFunc
		mutates bool
		want    api.Code
	}{
		{[]http.HandlerFunc{refuse(api.NoLeader), refuse(api.NoLeader)}, true, api.NoLeader},
		{[]http.HandlerFunc{refuse(api.NoLeader), refuse(api.Unavailable)}, false, api.Unavailable},
		{[]http.HandlerFunc{inTurn(cut, refuse(api.NoLeader))}, true, api.OutcomeUnknown},
		{[]http.HandlerFunc{cut}, false, api.Timeout},
	} {
		for i := range c.answers {
			if c.mutates {
				c.answers[i] = when(c.answers[i])
			}
		}
		cl := servers(t, c.answers...)
		client := cl.client(WithTimeout(300 * time.Millisecond))
		var err error
		if c.mutates {
			_, err = client.SetNode(t.Context(), api.Node{ID: "a"})
		} else {
			_, err = client.Route(t.Context(), nil, RouteOptions{})
		}
		if !is(err, c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
		ids := map[string]bool{}
		for _, a := range cl.requests() {
			ids[a.id] = true
		}
		if n := len(cl.requests()); len(ids) != 1 || n < 2*len(c.answers) {
			t.Errorf("%d requests with %d ids", n, len(ids))
		}
	}
	if err := New(nil).Health(t.Context()); !is(err, api.Invalid) {
		t.Errorf("%v", err)
	}
	if _, err := New(nil).SetNode(t.Context(), api.Node{}); !is(err, api.Invalid) {
		t.Errorf("%v", err)
	}
}

// An endpoint that takes a request and is silent leaves time for the others.
func TestSilentEndpointLeavesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids []string
		c := New([]string{"a", "b"}, WithTimeout(10*time.Second), WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut {
				ids = append(ids, r.URL.Host+fmt.Sprint(r.Header))
			}
			if r.URL.Host == "a" && r.Method == http.MethodPut {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return &http.Response{StatusCode: 200, Header: http.Header{api.HeaderIndex: {"7"}}, Body: io.NopCloser(strings.NewReader("{}"))}, nil
		})}))
		start := time.Now()
		_, err := c.SetNode(t.Context(), api.Node{ID: "n"})
		if took := time.Since(start); err != nil || took != 5*time.Second || len(ids) != 2 || ids[0][1:] != ids[1][1:] || !strings.Contains(ids[0], "idempotency-key:[7-") {
			t.Errorf("%v after %v: %v", err, took, ids)
		}
	})
}

// A server that says shortly before the client's time is over that it knows no leader is believed: one more try would be
// cut off, and nobody would know its outcome.
func TestNoTryWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var patience []string
		c := New([]string{"a"}, WithTimeout(10*time.Second), WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
			rec := httptest.NewRecorder()
			if r.Method == http.MethodGet {
				ok(api.Node{})(rec, r)
				return rec.Result(), nil
			}
			patience = append(patience, r.Header.Get(api.HeaderPatience))
			<-time.After(9 * time.Second)
			refuse(api.NoLeader)(rec, r)
			return rec.Result(), nil
		})}))
		if _, err := c.SetNode(t.Context(), api.Node{ID: "n"}); !is(err, api.NoLeader) {
			t.Errorf("%v", err)
		}
		if len(patience) != 1 || patience[0] != "10000" {
			t.Errorf("asked with patience %v", patience)
		}
	})
}

func TestHeaders(t *testing.T) {
	var got http.Header
	cl := servers(t, when(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		ok(api.Applied{})(w, r)
	}))
	c := cl.client(WithActor("ann"))
	if _, err := c.Declare(t.Context(), "p:", api.Declare{Prefix: "left out", Writer: "a"}, 12); err != nil {
		t.Fatal(err)
	}
	if got.Get(api.HeaderActor) != "ann" || got.Get("If-Match") != "12" || got.Get("Content-Type") != "application/json" {
		t.Errorf("%v", got)
	}
	// The index of the id is the one that was learnt before the first try.
	if id := got.Get(api.HeaderRequestID); !regexp.MustCompile(`^7-[0-9a-f]{32}$`).MatchString(id) || c.Index() != 7 {
		t.Errorf("id %s, index %d", id, c.Index())
	}
	if a := cl.requests()[0]; a.target != "/v1/scope?prefix=p%3A" || a.body != `{"writer":"a"}` {
		t.Errorf("%+v", a)
	}
	if _, err := c.Route(t.Context(), []byte("k\x00"), RouteOptions{As: "n", MinIndex: c.Index()}); err != nil {
		t.Fatal(err)
	}
	if a := cl.requests()[1]; a.target != `/v1/route?as=n&key=k%5Cx00&min_index=7` || a.id != "" || got.Get("If-Match") != "" {
		t.Errorf("%+v", a)
	}
}

func TestRepliesThatAreNone(t *testing.T) {
	for want, answer := range map[string]http.HandlerFunc{
		"not its JSON":             func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"without a registry error": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) },
		"more than":                func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxBody+1)) },
	} {
		if _, err := servers(t, answer).client().Nodes(t.Context()); !is(err, api.Internal) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cl := servers(t, when(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	if _, err := cl.client().SetNode(ctx, api.Node{ID: "a"}); !is(err, api.OutcomeUnknown) {
		t.Errorf("%v", err)
	}
}

// hungFirst is a network in which the server "hung" takes requests and answers none.
type hungFirst struct{}

func (hungFirst) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() == "hung" {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
}

// A call that has less time than the client, as a renewal, is not spent on a server
// that hangs: its next one would begin there again.
func TestHungServerLeavesTimeForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New([]string{"hung", "well"}, WithTimeout(time.Minute), WithHTTPClient(&http.Client{Transport: hungFirst{}}))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := c.Sessions(ctx); err != nil {
			t.Error(err)
		}
	})
}
