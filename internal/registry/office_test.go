package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/transport/peer"
)

// stateOf is the state after these commands.
func stateOf(t *testing.T, commands ...fsm.Command) (s fsm.State) {
	t.Helper()
	for _, c := range commands {
		next, result, _ := s.Apply(fsm.At{Index: s.Index() + 1, Term: 1}, fsm.Envelope{Command: c})
		if err := fsm.ResultError(result); err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		s = next
	}
	return s
}

func openOf(id string) fsm.Command {
	return &fsm.OpenSession{Node: id, Session: id + "-s", Identity: "d", TokenHash: make([]byte, fsm.TokenHashLen), Incarnation: 1, IncarnationTag: "c1"}
}

// copyingOffice is an office whose state has the move m1 from n1 to n2.
func copyingOffice(t *testing.T, now *time.Duration) *office {
	t.Helper()
	s := stateOf(t, &fsm.InitCluster{Id: "c1"}, setNode(1).Command, setNode(2).Command, openOf("n1"), openOf("n2"),
		&fsm.Declare{Prefix: []byte("a"), Writer: "n1"},
		&fsm.StartMove{Id: "m1", Prefix: []byte("a"), From: "n1", To: "n2", Mode: migration.Agent.String(), Precopy: true})
	return newOffice(fsm.NewLedger(api.DefaultLeases(), 1), func() fsm.State { return s }, func() time.Duration { return *now })
}

func (o *office) renew(session string) error {
	_, err := o.judge(func(l fsm.Ledger, s fsm.State, now time.Duration) (fsm.Ledger, error) {
		return l.Renew(s, api.Renewal{Session: session}, now)
	})
	return err
}

// From the moment that an expiry is to be proposed no renewal is granted, before anything of it is in the log; until that
// moment one is, be it late.
func TestRenewalAndExpiryExcludeEachOther(t *testing.T) {
	now := time.Hour
	o := copyingOffice(t, &now)
	if _, out, _, late := o.reconcile(); len(out) != 0 || late {
		t.Fatalf("%d directives of a new office, late %v", len(out), late)
	}
	now += 500 * time.Millisecond
	for range 19 { // the ticks of 9.5 s
		_, _, _, _ = o.reconcile()
		now += 500 * time.Millisecond
	}
	if err := o.renew("n1-s"); err != nil {
		t.Fatal(err)
	}
	_, out, _, _ := o.reconcile()
	if len(out) != 1 || out[0].Command().(*fsm.Expire).GetSession() != "n2-s" {
		t.Fatalf("directives %v, want the expiry of n2-s alone", out)
	}
	wantCode(t, o.renew("n2-s"), api.SessionExpired)
}

// A round that comes late judges nobody; after the restart all have their full time.
func TestLateRoundJudgesNobody(t *testing.T) {
	now := time.Hour
	o := copyingOffice(t, &now)
	_, _, due, _ := o.reconcile()
	now = due + api.DefaultLeases().Deadline + time.Minute
	for range 2 {
		if _, out, _, late := o.reconcile(); !late || len(out) != 0 {
			t.Fatalf("late %v with %d directives", late, len(out))
		}
	}
	o.restart()
	if _, out, _, late := o.reconcile(); late || len(out) != 0 {
		t.Fatalf("after the restart: late %v with %d directives", late, len(out))
	}
}

// Who began to ask an office that has ended since asks anew: the next leader counts otherwise, be it the same server.
func TestOfficeThatEnded(t *testing.T) {
	now := time.Hour
	o := copyingOffice(t, &now)
	o.end()
	var again *definite
	if err := o.renew("n1-s"); !errors.As(err, &again) {
		t.Errorf("a renewal: %v", err)
	}
	if _, _, err := o.leading(); !errors.As(err, &again) {
		t.Errorf("what it counts: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNetworkOf(t, 1, nil)
		n.ready()
		r := n.servers["s1"].reg
		n.until("an office", func() bool { return r.office.Load() != nil })
		r.office.Load().end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.Renew(ctx, api.Renewal{Session: "x"})
		wantCode(t, err, api.Timeout)
	})
}

// What a node says that calls for a proposal ends the leader's rest, also if it came just before that began.
func TestRestEndsWhenANodeSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Hour
		o, f := copyingOffice(t, &now), fsm.New(func(err error) { t.Error(err) })
		say := func(left uint64) {
			_, err := o.judge(func(l fsm.Ledger, s fsm.State, now time.Duration) (fsm.Ledger, error) {
				return l.Report(s, api.Report{Move: "m1", Session: "n1-s", KeysLeft: left}, now)
			})
			if err != nil {
				t.Error(err)
			}
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			o.rest(t.Context(), f, 1, 0)
		}()
		synctest.Wait()
		say(1)
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("a report with much left ended the rest")
		default:
		}
		say(0)
		<-ended
		start := time.Now()
		o.rest(t.Context(), f, 1, now+time.Hour)
		if time.Since(start) != 0 {
			t.Error("rested although there is something to propose")
		}
		_, _, _, _ = o.reconcile()
		o.rest(t.Context(), f, 1, now+time.Hour)
		if time.Since(start) != time.Hour {
			t.Errorf("rested %v of an hour", time.Since(start))
		}
	})
}

// A page of the longest leases, with the progress of all moves, fits a frame.
func TestLeadingPageFitsAFrame(t *testing.T) {
	page := api.Leading{Progress: map[string]api.Progress{}}
	long := strings.Repeat("<", fsm.MaxRandom) // JSON makes six bytes of it
	for range leadingPage {
		page.Leases = append(page.Leases, api.LeaseState{Session: long, Node: strings.Repeat("n", 64), View: 1 << 63, LeftMS: 1 << 62, Blind: true})
	}
	for i := range migration.MaxRunning {
		page.Progress[fmt.Sprintf("%064d", i)] = api.Progress{Keys: 1 << 63, Bytes: 1 << 63, KeysLeft: 1 << 63, BytesLeft: 1 << 63,
			BytesPerSec: 1 << 63, LeftMS: 1 << 62, AgeMS: 1 << 62}
	}
	body, err := json.Marshal(page)
	if err != nil || len(body) >= peer.MaxCallPayload {
		t.Fatalf("a page has %d bytes, %d fit; %v", len(body), peer.MaxCallPayload, err)
	}
}

func TestLeaseCallsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		follower := n.others(l.id)[0].reg
		_, err := follower.Renew(t.Context(), api.Renewal{Session: strings.Repeat("x", fsm.MaxRandom+1)})
		wantCode(t, err, api.Invalid)
		wantCode(t, follower.Report(t.Context(), api.Report{Session: strings.Repeat("x", fsm.MaxRandom+1)}), api.Invalid)
		wantCode(t, follower.Report(t.Context(), api.Report{Move: strings.Repeat("x", 65)}), api.Invalid)
		for _, kind := range []peer.Kind{peer.KindRenew, peer.KindReport} {
			body, err := l.reg.serve(t.Context(), follower.ID(), kind, []byte("{"))
			if err != nil || len(body) == 0 || body[0] != replyRefused || !strings.Contains(string(body), string(api.Invalid)) {
				t.Errorf("%v: answered %q, %v", kind, body, err)
			}
			body, err = follower.serve(t.Context(), l.id, kind, []byte(`{}`)) // one hop only
			if err != nil || len(body) == 0 || body[0] != replyRetry {
				t.Errorf("%v at a follower: answered %q, %v", kind, body, err)
			}
		}
		if body, err := follower.serve(t.Context(), l.id, peer.KindLeading, nil); err != nil || body[0] != replyRetry {
			t.Errorf("answered %q, %v", body, err)
		}
		if err := follower.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = follower.Renew(t.Context(), api.Renewal{})
		wantCode(t, err, api.Unavailable)
	})
}
