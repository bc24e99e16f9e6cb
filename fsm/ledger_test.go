package fsm

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// counted is a ledger with the state that it counts and the time it is at.
type counted struct {
	t   *testing.T
	s   State
	l   Ledger
	now time.Duration
	due time.Duration

	refusal *api.Error // of the newest renewal
}

// count begins to count the state at 1000 s of the leader's clock.
func count(t *testing.T, s State) *counted {
	t.Helper()
	c := &counted{t: t, s: s, l: firstLedger(), now: 1000 * time.Second}
	c.wantNothing("a new ledger")
	return c
}

// reconcile returns what is proposed now.
func (c *counted) reconcile() (out []Command) {
	var directives []Directive
	c.l, directives, c.due = Reconcile(c.s, c.l, c.now)
	for _, d := range directives {
		out = append(out, d.Command())
	}
	return out
}

func (c *counted) after(d time.Duration) *counted {
	c.now += d
	return c
}

// want requires exactly these proposals now, as text.
func (c *counted) want(when string, want ...string) {
	c.t.Helper()
	got := []string{}
	for _, command := range c.reconcile() {
		got = append(got, proposalText(command))
	}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		c.t.Fatalf("%s, at %s: proposed is %q, want %q", when, c.now, got, want)
	}
}

func (c *counted) wantNothing(when string) {
	c.t.Helper()
	c.want(when)
}

func proposalText(c Command) string {
	switch c := c.(type) {
	case *Expire:
		return fmt.Sprintf("expire %s in term %d", c.GetSession(), c.GetTerm())
	case *Ack:
		return fmt.Sprintf("ack %s %d", c.GetSession(), c.GetView())
	case *Quiesce:
		return "quiesce " + c.GetMove()
	case *Abort:
		return "abort " + c.GetMove() + " " + c.GetCause()
	}
	return fmt.Sprintf("%T", c)
}

// renew renews at the given view and requires this outcome.
func (c *counted) renew(session string, view uint64, want api.Code) {
	c.t.Helper()
	var err error
	c.l, err = c.l.Renew(c.s, api.Renewal{Session: session, View: view}, c.now)
	if got := codeOf(err); got != want {
		c.t.Fatalf("at %s the renewal of %s at %d is answered %q (%v), want %q", c.now, session, view, got, err, want)
	}
	c.refusal = nil
	if err != nil && !errors.As(err, &c.refusal) {
		c.t.Fatalf("the renewal's error is a %T", err)
	}
}

func codeOf(err error) api.Code {
	if err == nil {
		return ""
	}
	return api.CodeOf(err)
}

func (c *counted) apply(command Command) {
	c.t.Helper()
	next, r, _ := c.s.Apply(At{Index: c.s.Index() + 1, Term: 1}, Envelope{Command: command})
	if err := ResultError(r); err != nil {
		c.t.Fatalf("%v: %v", command, err)
	}
	c.s = next
}

func TestSessionExpiresADeadlineAfterItWasSeen(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.after(10*time.Second - 1).wantNothing("before the deadline")
	c.after(1).want("at the deadline", "expire n1-s in term 1")
}

// A session is seen first by a renewal, or by the next look at the state.
func TestSessionThatTheLedgerHasNotSeen(t *testing.T) {
	c := count(t, founded(t))
	c.s = opened(t, c.s, "n1", "n2")
	c.renew("n1-s", 0, "")
	c.after(4 * time.Second).wantNothing("n2 is seen by now")
	c.after(6*time.Second).want("of the renewal", "expire n1-s in term 1")
	c.after(4*time.Second).want("of the look", "expire n1-s in term 1", "expire n2-s in term 1")
}

func TestRenewalMovesTheDeadline(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.after(9*time.Second).renew("n1-s", 0, "")
	c.after(-4*time.Second).renew("n1-s", 0, "") // whose confirm was done before; it takes nothing away
	c.after(14*time.Second - 1).wantNothing("a deadline after the later renewal")
	c.after(1).want("then", "expire n1-s in term 1")
}

// A deadline that has passed and of which nothing was proposed yet is none: what
// decides is the order of the two in the leader.
func TestRenewalBeforeTheExpiryIsProposed(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.after(12*time.Second).renew("n1-s", 0, "")
	c.wantNothing("renewed first")
}

// The entry may be on its way into the log, whatever the proposal's outcome.
func TestProposedExpiryRefusesRenewals(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.after(10*time.Second).want("over", "expire n1-s in term 1")
	c.renew("n1-s", 0, api.SessionExpired)
	c.want("again, as it lives still", "expire n1-s in term 1")
	c.after(time.Second).want("and again", "expire n1-s in term 1")
	c.l = c.l.Restart()
	c.renew("n1-s", 0, api.SessionExpired)
	c.want("also after a restart", "expire n1-s in term 1")
	if leases, _ := c.l.Leading(c.s, c.now); leases[0].LeftMS != 0 {
		t.Errorf("it is over, and shown is %+v", leases[0])
	}
	c.l = c.l.Restart().Restart()
	c.want("and another", "expire n1-s in term 1")
	c.renew("n1-s", 0, api.SessionExpired)
	c.apply(&Expire{Session: "n1-s", Term: 1})
	c.wantNothing("it is gone")
	c.renew("n1-s", 0, api.SessionExpired)
	c.l = NewLedger(api.DefaultLeases(), 2)
	c.s = opened(t, c.s, "n1")
	c.renew("n1-s", 0, "")
}

func TestRenewalOfADeadSession(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.apply(&CloseSession{Session: "n1-s"})
	c.renew("n1-s", 0, api.SessionExpired)
	c.renew("", 0, api.SessionExpired)
	c.renew(strings.Repeat("x", 1<<20), 0, api.SessionExpired)
	if n := len(c.refusal.Detail); n > 500 {
		t.Errorf("the refusal has %d bytes", n)
	}
}

// A view of what is to come would arm scopes, and clear tombstones, of which the
// node knows nothing.
func TestRenewalWithAViewOfTheFuture(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.renew("n1-s", c.s.Index(), "")
	c.renew("n1-s", c.s.Index()+1, api.Invalid)
}

func TestNewLedgerGivesFullDeadlines(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.after(9 * time.Second).wantNothing("nearly over")
	c.l = NewLedger(api.DefaultLeases(), 7)
	c.wantNothing("a new leader")
	c.after(10*time.Second - 1).wantNothing("within its deadline")
	c.after(1).want("over", "expire n1-s in term 7")
}

func TestRestartGivesFullDeadlines(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1"))
	c.after(9 * time.Second).wantNothing("nearly over")
	c.l = c.l.Restart()
	c.after(time.Hour).wantNothing("restarted")
	c.after(10*time.Second - 1).wantNothing("within the deadline")
	c.after(1).want("over", "expire n1-s in term 1")
}

// The tick is promised while sessions live, and late if it comes more than a
// second after that.
func TestLate(t *testing.T) {
	c := count(t, founded(t))
	if c.due != 0 || c.l.Late(c.now+time.Hour) {
		t.Fatalf("nothing to count, and it is due at %s", c.due)
	}
	c.s = opened(t, c.s, "n1")
	c.wantNothing("a session")
	if c.due != c.now+time.Second {
		t.Fatalf("the next tick is at %s, now is %s", c.due, c.now)
	}
	if c.l.Late(c.now+2*time.Second) || !c.l.Late(c.now+2*time.Second+1) {
		t.Error("a tick is late one second after it was due, and not before")
	}
	if c.l.Restart().Late(c.now + time.Hour) {
		t.Error("late still after the restart")
	}
	c.after(9*time.Second + time.Second/2).wantNothing("half a second before the deadline")
	if c.due != c.now+time.Second/2 {
		t.Errorf("the next tick is at %s, the deadline %s after %s", c.due, time.Second/2, c.now)
	}
}

func TestLedgerIsNeverChangedInPlace(t *testing.T) {
	c := count(t, opened(t, founded(t), "n1", "n2"))
	before, at := c.l, c.now
	want := fmt.Sprint(before.Leading(c.s, at))
	c.after(5*time.Second).renew("n1-s", c.s.Index(), "")
	c.after(5*time.Second).want("n2 is over", "expire n2-s in term 1")
	_ = c.l.Restart()
	if got := fmt.Sprint(before.Leading(c.s, at)); got != want {
		t.Errorf("the older ledger says %s, and said %s", got, want)
	}
}

func TestLeading(t *testing.T) {
	c := count(t, opened(t, founded(t), "n2", "n1", "n3"))
	c.after(6*time.Second).renew("n2-s", 7, "")
	c.after(5*time.Second).want("two are over", "expire n1-s in term 1", "expire n3-s in term 1")
	c.s = opened(t, c.s, "n4")
	leases, progress := c.l.Leading(c.s, c.now)
	want := []api.LeaseState{
		{Session: "n1-s", Node: "n1"}, {Session: "n2-s", Node: "n2", View: 7, LeftMS: 5_000}, {Session: "n3-s", Node: "n3"},
		{Session: "n4-s", Node: "n4", LeftMS: 10_000},
	}
	if fmt.Sprint(leases) != fmt.Sprint(want) || len(progress) != 0 {
		t.Errorf("leases %v, progress %v", leases, progress)
	}
}

// TestLedgerCostsWhatChanges counts bytes: beside a hundred times the sessions a
// renewal, and a look at a state in which no session came or went, cost little
// more, as trees are deeper. Acks come and go meanwhile.
func TestLedgerCostsWhatChanges(t *testing.T) {
	small, large := bytesPerRenewal(t, 100), bytesPerRenewal(t, 10_000)
	if large > 4*small {
		t.Fatalf("a renewal and a look allocate %d bytes beside 100 sessions and %d beside 10,000", small, large)
	}
}

func bytesPerRenewal(t *testing.T, n int) uint64 {
	t.Helper()
	s := founded(t)
	for i := range n {
		id := fmt.Sprintf("node%05d", i)
		s = opened(t, applied(t, s, &SetNode{Id: id, Addr: "h:1"}), id)
	}
	c := count(t, s)
	const rounds = 1000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range rounds {
		session := fmt.Sprintf("node%05d-s", i%n)
		c.renew(session, c.s.Index(), "")
		c.apply(&Ack{Session: session, View: c.s.Index()})
		c.after(time.Millisecond).wantNothing("all are new")
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / rounds
}
