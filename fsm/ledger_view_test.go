package fsm

import (
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// A node whose view has not reached a change that concerns it, for a whole lease
// since the leader saw that, is refused until it has, and so expires.
func TestBlindNodeIsRefused(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	view := c.s.Index()
	c.apply(&Declare{Prefix: []byte("a"), Writer: "n1"})
	missed := c.s.Index()
	c.apply(&SetNode{Id: "n9", Addr: "h:1"})
	c.after(2*time.Second).renew("n1-s", view, "") // seen here
	c.after(8*time.Second-1).renew("n1-s", view, "")
	c.after(1).renew("n1-s", view, api.Stale)
	refusal := c.refusal
	for _, part := range []string{`"n1"`, "at index 6", "reached 7", "follow the watch"} {
		if !strings.Contains(refusal.Detail, part) {
			t.Errorf("the refusal %q does not say %q", refusal.Detail, part)
		}
	}
	if refusal.Index != missed {
		t.Errorf("the refusal's index is %d, the change was at %d", refusal.Index, missed)
	}
	leases, _ := c.l.Leading(c.s, c.now)
	if len(leases) != 1 || !leases[0].Blind || leases[0].View != view {
		t.Errorf("leases %+v", leases)
	}
	c.renew("n1-s", missed-1, api.Stale)
	seeing := *c
	seeing.renew("n1-s", missed, "")
	if leases, _ := seeing.l.Leading(seeing.s, seeing.now); leases[0].Blind {
		t.Errorf("blind still: %+v", leases)
	}
	c.after(10*time.Second-2).renew("n1-s", view, api.Stale)
	c.wantNothing("its last good renewal was 10 s ago in a moment")
	c.after(1).want("it expires", "expire n1-s in term 1")
}

// A view that goes on is not blind, though there is always something new.
func TestNodeThatIsALittleBehindIsNotBlind(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	for i := range 20 {
		view := c.s.Index()
		c.apply(&Declare{Prefix: []byte{'a' + byte(i)}, Writer: "n1"})
		c.after(2*time.Second).renew("n1-s", view, "")
	}
}

// The opening of its own session is something to follow: before its view has
// reached that a node admits nothing, and its fallbacks wait for its session to
// end.
func TestNodeThatDoesNotSeeItsOpeningIsBlind(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	opening := c.s.Index()
	c.renew("n1-s", opening-1, "")
	c.after(8*time.Second-1).renew("n1-s", opening-1, "")
	c.after(1).renew("n1-s", opening-1, api.Stale)
	if c.refusal.Index != opening {
		t.Errorf("the refusal's index is %d, the session was opened at %d", c.refusal.Index, opening)
	}
	seeing := *c
	seeing.renew("n1-s", opening, "")
	c.after(10*time.Second-1).want("it expires", "expire n1-s in term 1")
}

// What happened to others, or before the session, is nothing to follow; and a
// view from which an older renewal comes late has not gone back.
func TestNodeThatNothingConcernsIsNotBlind(t *testing.T) {
	s := applied(t, founded(t), &Declare{Prefix: []byte("a"), Writer: "n1"})
	s = applied(t, s, &OpenSession{Node: "n1", Session: "n1-s", Identity: "d", TokenHash: tokenHash("n1"), Incarnation: 1, IncarnationTag: "c1"})
	opening := s.Index()
	c := count(t, applied(t, s, &Declare{Prefix: []byte("b"), Writer: "n2"}))
	for range 20 {
		c.after(2*time.Second).renew("n1-s", opening, "")
	}
	c.apply(&Declare{Prefix: []byte("c"), Writer: "n1"})
	c.after(time.Second).renew("n1-s", c.s.Index(), "")
	for range 20 {
		c.after(2*time.Second).renew("n1-s", 3, "")
	}
}

// What the log knows of a view counts, though this leader never heard of it.
func TestViewThatTheLogKnows(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.apply(&Declare{Prefix: []byte("a"), Writer: "n1"})
	c.apply(&Ack{Session: "n1-s", View: c.s.Index()})
	for range 20 {
		c.after(2*time.Second).renew("n1-s", 3, "")
	}
}

// A restart counts anew for how long a node does not see.
func TestRestartGivesABlindNodeAnotherLease(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.apply(&Declare{Prefix: []byte("a"), Writer: "n1"})
	c.renew("n1-s", 6, "")
	c.after(8*time.Second).renew("n1-s", 6, api.Stale)
	c.l = c.l.Restart()
	c.renew("n1-s", 6, "")
	c.after(8*time.Second).renew("n1-s", 6, api.Stale)
}

// An ack goes into the log only where something waits for it, and once for each
// renewal: one that got lost comes again, one that is refused does not come
// without end.
func TestAckOnlyWhenSomethingWaits(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1", "n2"))
	c.renew("n1-s", c.s.Index(), "")
	if c.l.Urgent() {
		t.Error("nothing waits, and it is urgent")
	}
	c.wantNothing("nothing waits")
	c.apply(&Declare{Prefix: []byte("a"), Writer: "n1", Fallback: "n2"})
	index := c.s.Index()
	c.renew("n1-s", index-1, "")
	c.renew("n2-s", index, "")
	c.wantNothing("a view from before, and that of another node")
	c.apply(&SetNode{Id: "n9", Addr: "h:1"})
	c.renew("n1-s", index+1, "")
	if !c.l.Urgent() {
		t.Error("an ack to propose is not urgent")
	}
	c.want("it waits to be armed", "ack n1-s 9")
	if c.l.Urgent() {
		t.Error("urgent still, though all is proposed")
	}
	c.after(time.Second).wantNothing("proposed once")
	c.renew("n1-s", index, "") // which came late, and the view has not gone back
	c.want("once more", "ack n1-s 9")
	c.apply(&Ack{Session: "n1-s", View: index + 1})
	c.renew("n1-s", index+2, "")
	c.wantNothing("armed")
	c.apply(&Retire{Prefix: []byte("a")})
	c.renew("n1-s", c.s.Index(), "")
	c.apply(&SetNode{Id: "n8", Addr: "h:1"})
	c.want("a tombstone waits", "ack n1-s 11")
}

// What a renewal brought may be settled, or its session dead, before the leader
// comes to propose it.
func TestAckThatIsNotNeededAnyMore(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.apply(&Declare{Prefix: []byte("a"), Writer: "n1", Fallback: "n2"})
	c.renew("n1-s", c.s.Index(), "")
	settled, dead := *c, *c
	settled.apply(&Ack{Session: "n1-s", View: c.s.Index()})
	settled.wantNothing("settled")
	dead.apply(&CloseSession{Session: "n1-s"})
	dead.wantNothing("dead")
	c.want("else", "ack n1-s 7")
}

// copying is a state in which m1 copies "a" from n1 to n2, with a window of 4 s.
func copying(t *testing.T, mode string) State {
	t.Helper()
	s := applied(t, opened(t, founded(t), "n1", "n2"), &Declare{Prefix: []byte("a"), Writer: "n1"})
	return applied(t, s, &StartMove{Id: "m1", Prefix: []byte("a"), From: "n1", To: "n2", Mode: mode, Precopy: true, WindowMs: 4_000, TimeoutMs: 600_000})
}

func (c *counted) report(r api.Report, want api.Code) {
	c.t.Helper()
	if r.Move == "" {
		r.Move = "m1"
	}
	if r.Session == "" {
		r.Session = "n1-s"
	}
	var err error
	c.l, err = c.l.Report(c.s, r, c.now)
	if got := codeOf(err); got != want {
		c.t.Fatalf("at %s the report %+v is answered %q (%v), want %q", c.now, r, got, err, want)
	}
}

func TestSourceWithLittleLeftIsClosed(t *testing.T) {
	c := count(t, copying(t, "agent"))
	c.after(time.Second).wantNothing("without a report")
	c.report(api.Report{Keys: 10, Bytes: 1000, KeysLeft: 1, BytesLeft: 1}, "")
	c.wantNothing("without a rate")
	c.after(time.Second).report(api.Report{Keys: 20, Bytes: 2000, KeysLeft: 1, BytesLeft: 1001}, "")
	c.wantNothing("1001 bytes at 1000 a second; a quarter of the window is 1 s")
	c.report(api.Report{Keys: 20, Bytes: 2000, KeysLeft: 1, BytesLeft: 1001}, "") // at the same moment; the rate stays
	if leases, progress := c.l.Leading(c.s, c.now); len(leases) != 2 || progress["m1"] != (api.Progress{Keys: 20, Bytes: 2000, KeysLeft: 1, BytesLeft: 1001, BytesPerSec: 1000, LeftMS: 1001}) {
		t.Errorf("progress %+v", progress)
	}
	c.after(time.Second).report(api.Report{Keys: 30, Bytes: 3000, KeysLeft: 11, BytesLeft: 1}, "")
	c.wantNothing("11 keys at 10 a second")
	if c.l.Urgent() {
		t.Error("nothing to propose, and it is urgent")
	}
	c.after(time.Second).report(api.Report{Keys: 40, Bytes: 4000, KeysLeft: 10, BytesLeft: 1000}, "")
	if !c.l.Urgent() {
		t.Error("a move to close is not urgent")
	}
	c.want("a quarter of the window", "quiesce m1")
	c.want("again while it copies", "quiesce m1")
	c.apply(&Quiesce{Move: "m1"})
	c.wantNothing("closed")
	c.report(api.Report{Keys: 50, Bytes: 5000}, "")
	c.wantNothing("nothing left, and closed already")
}

func TestEarlyIsNotClosed(t *testing.T) {
	c := count(t, copying(t, "agent"))
	c.report(api.Report{Early: true}, "")
	c.after(time.Second).report(api.Report{Keys: 10, Bytes: 10, Early: true}, "")
	c.wantNothing("nothing is left, and it is early")
	if c.l.Urgent() {
		t.Error("early, and urgent")
	}
	c.report(api.Report{Keys: 10, Bytes: 10}, "")
	c.want("it is early no more", "quiesce m1")
}

func TestNothingLeftIsAlwaysLittle(t *testing.T) {
	c := count(t, copying(t, "agent"))
	c.report(api.Report{}, "")
	c.want("at the first report", "quiesce m1")
}

// A rate is of one process, and of one that goes on.
func TestRateThatIsNotKnown(t *testing.T) {
	c := count(t, copying(t, "agent"))
	few := func(keys, bytes uint64) api.Report {
		return api.Report{Keys: keys, Bytes: bytes, KeysLeft: 1, BytesLeft: 1}
	}
	c.report(few(10, 10), "")
	c.after(time.Second).report(few(10, 10), "")
	c.wantNothing("it stands still")
	c.after(time.Second).report(few(20, 10), "")
	c.wantNothing("of its bytes nothing is known")
	c.after(time.Second).report(few(20, 20), "")
	c.wantNothing("of its keys nothing is known")
	c.after(time.Second).report(few(5, 30), "")
	c.wantNothing("it began anew")
	c.apply(&OpenSession{Node: "n1", Session: "n1-t", Identity: "n1-disk", TokenHash: tokenHash("t"), PreviousTokenHash: tokenHash("n1"),
		Incarnation: 1, IncarnationTag: "c1", View: c.s.Index()})
	r := few(50, 50)
	r.Session = "n1-t"
	c.after(time.Second).report(r, "")
	c.wantNothing("another process of the source")
	if _, progress := c.l.Leading(c.s, c.now); progress["m1"].LeftMS != -1 {
		t.Errorf("progress %+v", progress)
	}
	c.report(r, "") // at the same moment
	r.Keys, r.Bytes = 60, 60
	c.after(time.Second).report(r, "")
	c.want("it goes on", "quiesce m1")
}

// What would take longer than a move may last is that long: more would not fit a
// duration.
func TestTimeLeftIsBounded(t *testing.T) {
	if left, known := lasting(1<<63, 0.001); left != MaxTimeout || !known {
		t.Errorf("%s, known %v", left, known)
	}
}

// Only an agent's move is closed for it, and only by what the source's live
// session said.
func TestMovesThatAreNotClosed(t *testing.T) {
	c := count(t, copying(t, "assisted"))
	c.report(api.Report{}, "")
	c.wantNothing("in mode assisted the operator says when")
	c = count(t, copying(t, "agent"))
	c.report(api.Report{}, "")
	c.apply(&CloseSession{Session: "n1-s"})
	c.wantNothing("who said it is gone")
	c = count(t, copying(t, "agent"))
	c.report(api.Report{}, "")
	c.l = c.l.Restart()
	c.wantNothing("it was said before a pause")
}

func TestReportsThatAreRefused(t *testing.T) {
	c := count(t, copying(t, "agent"))
	c.report(api.Report{Move: "m9"}, api.NotFound)
	c.report(api.Report{Session: "n9-s"}, api.SessionExpired)
	c.report(api.Report{Session: "n2-s"}, api.Invalid)
	if _, progress := c.l.Leading(c.s, c.now); len(progress) != 0 {
		t.Errorf("progress %v of reports that were refused", progress)
	}
	c.apply(&Quiesce{Move: "m1"})
	c.report(api.Report{KeysLeft: 1}, "")
	c.apply(&Shipped{Move: "m1", Session: "n1-s"})
	c.report(api.Report{}, api.WrongPhase)
	c.apply(&Abort{Move: "m1"})
	c.report(api.Report{}, api.WrongPhase)
}

func TestRestartGivesMovesFullBudgets(t *testing.T) {
	c := count(t, applied(t, copying(t, "assisted"), &Quiesce{Move: "m1"}))
	c.after(4*time.Second - 1).wantNothing("within its window")
	c.l = c.l.Restart()
	c.after(time.Second).wantNothing("restarted")
	c.after(4*time.Second - 1).wantNothing("within its window again")
	c.after(1).want("over", "abort m1 window")
}
