package workload

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/direct"
)

// script is a server that gives one answer after the other: a code, "" for a
// good reply, or "cut" for none.
type script struct {
	answers []string

	mu  sync.Mutex // guards ids
	ids []string   // request ids that came
}

func (s *script) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := s.answers[len(s.ids)]
	s.ids = append(s.ids, r.Header.Get(api.HeaderRequestID))
	w.Header().Set(api.HeaderIndex, "5")
	switch answer {
	case "cut":
		panic(http.ErrAbortHandler)
	case "":
		_, _ = w.Write([]byte(`{"index":5,"epoch":2,"changed":1}`))
	default:
		w.WriteHeader(api.Code(answer).HTTPStatus())
		_, _ = fmt.Fprintf(w, `{"code":%q,"epoch":3}`, answer)
	}
}

// scripted is a client of a server that answers as written.
func scripted(t *testing.T, answers ...string) (*client, *script) {
	t.Helper()
	s := &script{answers: answers}
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	log, err := history.Create(filepath.Join(t.TempDir(), "history.jsonl"), history.Setup{})
	if err != nil {
		t.Fatal(err)
	}
	srv := direct.New("s1", ts.URL, nil)
	t.Cleanup(func() {
		srv.Close()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return &client{name: "c1", srv: srv, log: log, rng: rand.New(rand.NewPCG(1, 1)), prefixes: []string{"p:"}, believes: map[string]belief{}}, s
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		kind    history.Kind
		answers []string
		tries   int
		want    history.Outcome
	}{
		{history.Declare, []string{""}, 3, history.OK},
		{history.Declare, []string{"STALE_EPOCH"}, 3, history.Refused},
		{history.Declare, []string{"INVALID"}, 3, history.Refused},
		{history.Declare, []string{"NO_LEADER"}, 3, history.Failed},
		{history.Declare, []string{"LIMIT"}, 3, history.Failed},
		{history.Declare, []string{"OUTCOME_UNKNOWN"}, 1, history.Unknown},
		{history.Declare, []string{"INTERNAL"}, 1, history.Unknown},
		{history.Declare, []string{"cut"}, 1, history.Unknown},
		{history.Declare, []string{"cut", ""}, 3, history.OK},
		{history.Declare, []string{"cut", "STALE_EPOCH"}, 3, history.Refused},
		{history.Declare, []string{"cut", "NO_LEADER"}, 2, history.Unknown}, // the first try may have been applied
		{history.Declare, []string{"cut", "NO_LEADER", "REQUEST_EXPIRED"}, 3, history.Unknown},
		{history.Declare, []string{"cut", "cut", "cut"}, 3, history.Unknown},
		{history.Read, []string{"NOT_FOUND"}, 1, history.Refused},
		{history.Read, []string{"NO_LEADER"}, 1, history.Failed},
		{history.Read, []string{"INTERNAL"}, 1, history.Failed},
	} {
		cl, s := scripted(t, c.answers...)
		op := history.Op{Kind: c.kind, Prefix: "p:"}
		cl.send(t.Context(), &op, direct.Request{Method: http.MethodPut, Path: "/v1/scope", RequestID: "one"}, nil, c.tries)
		if op.Outcome != c.want || op.Tries != len(c.answers) {
			t.Errorf("%s with %q: %s after %d tries, want %s after %d", c.kind, c.answers, op.Outcome, op.Tries, c.want, len(c.answers))
		}
		if c.want == history.Refused && op.Got.Epoch != 3 {
			t.Errorf("%s with %q: the refusal's epoch is %d", c.kind, c.answers, op.Got.Epoch)
		}
		for _, id := range s.asked() {
			if id != "one" {
				t.Errorf("%s with %q: request id %q", c.kind, c.answers, id)
			}
		}
	}
}

// TestLostReply has the first reply lost: the same is asked again, once.
func TestLostReply(t *testing.T) {
	for _, first := range []string{"", "STALE_EPOCH", "cut"} {
		cl, s := scripted(t, first, "", "")
		cl.lossy = 100
		op := history.Op{Kind: history.Declare, Prefix: "p:"}
		cl.send(t.Context(), &op, direct.Request{Method: http.MethodPut, Path: "/v1/scope", RequestID: "one"}, nil, 1)
		if op.Outcome != history.OK || op.Tries != 2 || len(s.asked()) != 2 {
			t.Errorf("%q was lost: %s after %d tries, %q", first, op.Outcome, op.Tries, s.asked())
		}
	}
}

// TestDeclareIsRecorded looks at what the history keeps of an operation.
func TestDeclareIsRecorded(t *testing.T) {
	cl, s := scripted(t, "", "")
	cl.declare(t.Context(), "p:", "a", "b", 2)
	cl.declare(t.Context(), "p:", "a", "c", 2)
	ops := cl.log.Run().Ops
	want := history.Got{Seen: 5, Index: 5, Epoch: 2, Changed: true}
	if len(ops) != 2 || ops[0].Got != want || ops[0].Server != "s1" || ops[0].Client != "c1" || ops[0].Return <= ops[0].Call || ops[1].Call < ops[0].Return {
		t.Errorf("recorded %+v", ops)
	}
	if ids := s.asked(); ids[0] == ids[1] || ids[0] != ops[0].RequestID {
		t.Errorf("request ids %q, recorded %q", ids, ops[0].RequestID)
	}
}
