package fsm

import (
	"fmt"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// manySessions is a state with as many live sessions as there may be.
func manySessions(b *testing.B) State {
	b.Helper()
	s := applied(b, State{}, &InitCluster{Id: "c1"})
	for i := range MaxNodes {
		id := fmt.Sprintf("node%05d", i)
		s = opened(b, applied(b, s, &SetNode{Id: id, Addr: "h:1"}), id)
	}
	return s
}

// BenchmarkRenew is one renewal among the sessions of MaxNodes nodes.
func BenchmarkRenew(b *testing.B) {
	s := manySessions(b)
	l, _, _ := Reconcile(s, firstLedger(), time.Hour)
	i := 0
	for b.Loop() {
		var err error
		r := api.Renewal{Session: fmt.Sprintf("node%05d-s", i%MaxNodes), View: s.Index()}
		if l, err = l.Renew(s, r, time.Hour+time.Duration(i)*time.Microsecond); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkReconcile is a leader's look at MaxNodes sessions: the first; one when
// nothing changed; one when a session was opened; one when all expire.
func BenchmarkReconcile(b *testing.B) {
	s := manySessions(b)
	first, _, _ := Reconcile(s, firstLedger(), time.Hour)
	more := opened(b, applied(b, applied(b, s, &CloseSession{Session: "node00007-s"}), &SetNode{Id: "node00007", Addr: "h:2"}), "node00007")
	for _, bench := range []struct {
		name string
		s    State
		l    Ledger
		now  time.Duration
	}{{"first", s, firstLedger(), time.Hour}, {"unchanged", s, first, time.Hour}, {"opened", more, first, time.Hour}, {"expired", s, first, 2 * time.Hour}} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				Reconcile(bench.s, bench.l, bench.now)
			}
		})
	}
}
