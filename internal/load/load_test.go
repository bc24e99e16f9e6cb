package load

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// fakeNodes are two nodes: n1 sends everybody to n2, which answers every third
// write that its outcome is unknown, and every fourth that it is busy.
func fakeNodes(t *testing.T) (s *Nodes, came func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	refuse := func(w http.ResponseWriter, e api.Error) {
		w.WriteHeader(e.Code.HTTPStatus())
		_ = json.NewEncoder(w).Encode(e)
	}
	n1 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, api.Error{Code: api.Misdirected, Owner: "n2", Addr: "elsewhere"})
	}))
	n2 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		n++
		switch {
		case n%3 == 0:
			refuse(w, api.Error{Code: api.OutcomeUnknown})
		case n%4 == 0:
			refuse(w, api.Error{Code: api.Quiesced, Owner: "n1", RetryMS: 1})
		default:
			now := time.Now().UnixNano()
			fmt.Fprintf(w, `{"node":"n2","epoch":5,"incarnation":1,"began_ns":%d,"ended_ns":%d}`, now, now)
		}
	}))
	t.Cleanup(n1.Close)
	t.Cleanup(n2.Close)
	s = NewNodes(map[string]string{"n1": n1.Listener.Addr().String(), "n2": n2.Listener.Addr().String(), "n3": "127.0.0.1:1"})
	t.Cleanup(s.Close)
	return s, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// TestLoadFollowsTheOwner: each write ends at the owner, acknowledged or unknown;
// a key whose outcome is unknown is not written again.
func TestLoadFollowsTheOwner(t *testing.T) {
	s, got := fakeNodes(t)
	var mu sync.Mutex // guards tried and acked
	var tried []writes.Op
	acked := 0
	enough := make(chan struct{})
	var once sync.Once
	l := Begin(Config{Nodes: s, Owners: []string{"n3", "n1", "n2"}, Scopes: []string{"s:"}, Writers: 2, Seen: func(op writes.Op) {
		mu.Lock()
		defer mu.Unlock()
		tried = append(tried, op)
		if op.Outcome == writes.Acknowledged {
			acked++
		}
		if acked >= 200 {
			once.Do(func() { close(enough) })
		}
	}})
	<-enough
	l.Hold()
	held := got()
	time.AfterFunc(0, l.Release)
	l.Drain()
	if held == 0 || got() < held {
		t.Errorf("%d writes came to n2 until all were held, and %d in all", held, got())
	}
	doubt, nodes := map[string]bool{}, map[string]int{}
	for _, op := range tried {
		if doubt[op.Key] {
			t.Fatalf("%q was written again after an unknown outcome", op.Key)
		}
		doubt[op.Key] = op.Outcome == writes.Unknown
		nodes[op.Node+" "+string(op.Outcome)]++
	}
	if nodes["n3 refused"] == 0 || nodes["n1 refused"] == 0 || nodes["n2 acknowledged"] < 200 || nodes["n2 unknown"] == 0 || nodes["n2 refused"] == 0 {
		t.Errorf("attempts: %v", nodes)
	}
}

// TestDeletes: what was new is deleted once it is some writes old, and never written again; what is overwritten is.
func TestDeletes(t *testing.T) {
	w := (&Load{}).writer("s:", 1)
	born, deleted := map[string]int{}, map[string]bool{}
	gone, old, again := 0, 0, 0
	for n := range 2000 {
		op := w.next()
		isNew := strings.HasPrefix(op.Key, "s:new:")
		switch {
		case isNew && deleted[op.Key]:
			t.Fatalf("%q is written again", op.Key)
		case isNew && op.Deletes:
			if gone++; n-born[op.Key] > 30 {
				old++
			}
		case isNew:
			born[op.Key] = n
		case deleted[op.Key] && !op.Deletes:
			again++
		}
		deleted[op.Key] = op.Deletes
	}
	if gone < 120 || old < gone/2 || again < 20 {
		t.Errorf("of %d new keys %d were deleted, %d of them more than 30 writes old; %d of those that are overwritten came again", len(born), gone, old, again)
	}
}
