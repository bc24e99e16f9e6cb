package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// begun is a node that is ready, outside of a script.
func begun(t *testing.T, records ...string) *script {
	t.Helper()
	s := &script{t: t}
	s.machine()
	s.process()
	s.ready(strings.Join(append([]string{""}, records...), " | "))
	s.out.Reset()
	return s
}

// TestPrefixesComeAndGo: counts of writes and flips do not outlive the scopes
// that they are of, whatever prefixes are declared, moved and retired.
func TestPrefixesComeAndGo(t *testing.T) {
	s := begun(t)
	index := 11
	item := func(form string, args ...any) {
		index++
		s.line(fmt.Sprintf("item %d | ", index) + fmt.Sprintf(form, args...))
	}
	item("scope busy: n1 e1")
	s.line("enter w busy:k")
	item("-scope busy:")
	for i := range 300 {
		item("scope p%d: n1 e%d", i, 3*i+2)
		item("scope p%d: n2 e%d | move m%d p%d: n1>n2 done new=%d", i, 3*i+3, i, i, 3*i+3)
		if i%3 == 0 {
			item("scope p%d: n3 e%d", i, 3*i+4) // by a takeover
		} else {
			item("-scope p%d:", i)
		}
	}
	item("node n2")
	if n := s.state.rules.gates.Len(); n != 1 {
		t.Errorf("%d counts of writes are kept, of which 1 is not idle", n)
	}
	if n := s.state.view.flips.Len(); n != 0 {
		t.Errorf("%d flips are kept that began no present tenure", n)
	}
	if s.adm.Drained("busy:") {
		t.Error("the write in busy: is not counted any more")
	}
	s.line("leave w")
	item("node n2")
	if n := s.state.rules.gates.Len() + s.state.parted.Len(); n != 0 {
		t.Errorf("%d counts of writes are kept, of which none is busy", n)
	}
}

// TestGateIsKeptWhileItsRulesAreInForce: a scope goes, and comes again before the
// rules of the step in which it went are published. The write that entered between
// counts for both tenures.
func TestGateIsKeptWhileItsRulesAreInForce(t *testing.T) {
	s := begun(t, "scope a: n1 e5")
	s.line("late")
	s.line("item 12 | scope a: n2 e6")
	s.line("enter w a:k") // by the rules of index 11
	s.line("publish")
	s.line("item 13 | node n2")
	s.line("item 14 | scope a: n1 e7")
	if s.adm.Drained("a:") {
		t.Error("a: counts as drained, though a write that was admitted there still runs")
	}
	s.line("leave w")
	if !s.adm.Drained("a:") {
		t.Error("a: is not drained after its only write left")
	}
}

// TestPromotedMarksAreBounded: the oldest are forgotten, on disk too, but none
// before a session shows that the view is not from before the flip.
func TestPromotedMarksAreBounded(t *testing.T) {
	s := &script{t: t}
	s.machine()
	for i := range keptPromoted + 3 {
		s.line(fmt.Sprintf("mark m%03d a: promoted", i))
	}
	s.line("mark sealed a: keys=3")
	s.process()
	s.line("tick")
	s.line("snap 10 | node n1 | scope a: n1 e5 | move m000 a: n2>n1 shipped e4")
	s.line("stages? m000")
	if got := s.out.String(); strings.Contains(got, "discard") || !strings.Contains(got, "in the store") {
		t.Errorf("a view from before the opening decided about marks:\n%s", got)
	}
	s.out.Reset()
	s.line("opened s1 11")
	s.line("item 11 | node n1 s1@11 | move m000 a: n2>n1 aborted e4 | scope a: n2 e5 to=n1 | move m001 a: n2>n1 quiescing e5")
	for _, want := range []string{"discard m000\n", "discard m002\n", "discard m003\n", "discard sealed\n"} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("no %q in\n%s", want, s.out.String())
		}
	}
	if n := strings.Count(s.out.String(), "discard"); n != 4 { // not m001: its move runs again
		t.Errorf("%d marks are discarded, want 4:\n%s", n, s.out.String())
	}
	for _, id := range []string{"m000", "m002", "m003", "sealed"} {
		s.line("discarded " + id)
	}
	if n := len(s.state.marks); n != keptPromoted || len(s.disk) != keptPromoted {
		t.Errorf("%d marks are kept and %d on disk, want %d", n, len(s.disk), keptPromoted)
	}
}

// TestManyCleanups: a step that is not about them does not look at 10,000 of them.
func TestManyCleanups(t *testing.T) {
	s := begun(t)
	it := api.WatchItem{Type: "change", Index: 12, Incarnation: 1, Tag: "x"}
	for i := range 10_000 {
		it.Changes = append(it.Changes, s.change(parseWords(t, fmt.Sprintf("cleanup n1 p%05d: e5", i))))
	}
	s.step(Watched{s.stream, it})
	list := &s.state.chores.list[0]
	for i := range 100 {
		s.line(fmt.Sprintf("beat %d", 13+i))
	}
	if &s.state.chores.list[0] != list {
		t.Error("heartbeats made the list of copies to delete anew")
	}
	s.now = 10 * time.Second
	s.step(Tick{})
	if got := s.out.String(); !strings.Contains(got, "delete p00000: e5\n") || strings.Count(got, "delete") != 1 {
		t.Errorf("the first copy is to be deleted, and no other yet:\n%s", got)
	}
}
