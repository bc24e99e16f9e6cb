package registry

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
)

var (
	admin    = access.Who{Role: access.Admin, ID: "ann"}
	operator = access.Who{Role: access.Operator, ID: "bob"}
)

// as is a command of somebody.
func as(who access.Who, c fsm.Command) fsm.Envelope {
	return fsm.Envelope{Actor: who.String(), Origin: fsm.OriginOf(who, "10.0.0.1", "a reason"), Command: c}
}

// newToken is an admin's, which the first one has to be.
func newToken(id string) *fsm.CreateToken {
	return &fsm.CreateToken{Id: id, Role: "admin", Hash: make([]byte, fsm.TokenHashLen)}
}

// envelopes are all commands in the log of a server, in their order.
func (s *node) envelopes() (out []fsm.Envelope) {
	s.net.t.Helper()
	last, err := s.store.LastIndex()
	if err != nil {
		s.net.t.Fatal(err)
	}
	for i := uint64(1); i <= last; i++ {
		var log raft.Log
		if err := s.store.GetLog(i, &log); err != nil {
			s.net.t.Fatal(err)
		}
		var entry pb.Entry
		if log.Type != raft.LogCommand {
			continue
		}
		if err := proto.Unmarshal(log.Data, &entry); err != nil {
			s.net.t.Fatal(err)
		}
		for _, raw := range entry.GetEnvelopes() {
			e, err := fsm.DecodeEnvelope(raw)
			if err != nil {
				s.net.t.Fatal(err)
			}
			out = append(out, e)
		}
	}
	return out
}

// knownTo1 reports whether a server of log format 1 would take the command for one that it knows.
func knownTo1(e fsm.Envelope) bool {
	switch c := e.Command.(type) {
	case *fsm.CreateToken, *fsm.RevokeToken:
		return false
	case *fsm.InitCluster:
		return c.GetLogFormat() == 0 && e.Origin == nil
	}
	return e.Origin == nil
}

// Servers of a new cluster know each other's releases when it begins: that is in its first entry, and takes no other.
func TestNewClusterKnowsItsFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		n.until("the cluster to have an id", func() bool { return l.reg.State().Cluster().ID != "" })
		mustPropose(t, l, setNode(1))
		<-time.After(time.Minute)
		var inits []*fsm.InitCluster
		for _, e := range l.envelopes() {
			if c, ok := e.Command.(*fsm.InitCluster); ok {
				inits = append(inits, c)
			}
		}
		if len(inits) != 1 || inits[0].GetLogFormat() != logFormat || inits[0].GetId() != "c1" {
			t.Fatalf("the cluster began with %v", inits)
		}
	})
}

// While a server of the release before runs, or may come back, nothing gets into the log that it would stop at: whoever is
// unknown changes things as before, whoever is known is told which server is in the way. When it is upgraded all goes on by
// itself.
func TestMixedCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := unstarted(t, 3, nil)
		n.older("s1", "s2", "s3")
		n.begin()
		n.ready()
		l := n.leader("")
		asked := n.others(l.id)
		n.older(asked[0].id)
		<-time.After(2 * othersEvery) // the leader has asked all
		for i, s := range []*node{l, asked[0], asked[1]} {
			mustPropose(t, s, setNode(i))
			mustPropose(t, s, from(setNode(10+i), 1))
			for _, e := range []fsm.Envelope{as(operator, setNode(20).Command), as(admin, newToken("t")), {Command: newToken("t")}, {Command: &fsm.RevokeToken{Id: "t"}}} {
				_, err := s.reg.Propose(t.Context(), e)
				wantCode(t, err, api.WrongPhase)
				if !strings.Contains(err.Error(), asked[0].id) || !strings.Contains(err.Error(), "upgrade it first") {
					t.Fatalf("%v does not say what to do about %s", err, asked[0].id)
				}
			}
		}
		// A server passes it on as it came in, whose state says already what that of a new leader does not say yet.
		raw, err := from(setNode(30), 1).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.reg.commitFrom(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		if l.reg.State().LogFormat() != 0 {
			t.Fatalf("the log has format %d beside a server that does not know it", l.reg.State().LogFormat())
		}
		for _, e := range l.envelopes() {
			if !knownTo1(e) {
				t.Errorf("a server of the release before would stop at %v", e)
			}
		}
		n.older()
		n.until("the format to be on record", func() bool { return l.reg.State().LogFormat() == logFormat })
		for _, s := range []*node{l, asked[0], asked[1]} {
			mustPropose(t, s, as(operator, setNode(20).Command))
		}
		mustPropose(t, asked[0], as(admin, newToken("t")))
		actors := ""
		for r := range l.reg.State().Audit(1) {
			actors += r.GetActor() + " "
		}
		if actors != "operator/bob operator/bob operator/bob admin/ann " {
			t.Errorf("the audit has %s", actors)
		}
	})
}

// Once the log has the new format no server of the release before is taken in: it would stop at what is there.
func TestOldServerDoesNotJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		n.until("the format to be on record", func() bool { return l.reg.State().LogFormat() == logFormat })
		n.waiting("s4")
		n.older("s4")
		_, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1")
		wantCode(t, err, api.WrongPhase)
		if !strings.Contains(err.Error(), "log format 1") || !strings.Contains(err.Error(), "upgrade it first") {
			t.Errorf("%v does not say what is wrong", err)
		}
		n.older()
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); err != nil {
			t.Error(err)
		}
		n.until("s4 to run", func() bool { return n.servers["s4"].now() != nil })
	})
}

// A server that is down has not said what it knows, and may be old: it is waited for, however long, until it is removed.
func TestServerThatIsDownHoldsTheFormatBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := unstarted(t, 3, nil)
		n.older("s1", "s2", "s3")
		n.begin()
		n.ready()
		l := n.leader("")
		down := n.others(l.id)[0]
		n.isolate(down.id) // the one that leads next has not asked it
		l.restart()        // forgets what it was told
		n.heal()
		n.isolate(down.id)
		n.older()
		l = n.leader(down.id)
		<-time.After(time.Hour)
		_, err := l.reg.Propose(t.Context(), as(operator, setNode(1).Command))
		wantCode(t, err, api.WrongPhase)
		if !strings.Contains(err.Error(), "cluster remove "+down.id) {
			t.Fatalf("%v does not say what to do about %s", err, down.id)
		}
		mustPropose(t, l, from(setNode(1), 1))
		if _, err := l.reg.Remove(t.Context(), fsm.Envelope{}, down.id, false); err != nil {
			t.Fatal(err)
		}
		n.until("the format to be on record", func() bool { return l.reg.State().LogFormat() == logFormat })
		mustPropose(t, l, as(operator, setNode(1).Command))
	})
}

// Once there is a token nobody unknown changes anything, nor does a front end that forgets to say who asks. The leader's own
// commands go on.
func TestCommandsWithoutAnOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		f := n.others(l.id)[0]
		mustPropose(t, f, setNode(1))
		mustPropose(t, l, fsm.Envelope{Command: newToken("t")})
		for _, s := range []*node{l, f} {
			for _, e := range []fsm.Envelope{setNode(2), from(setNode(2), 1)} {
				_, err := s.reg.Propose(t.Context(), e)
				wantCode(t, err, api.Unauthenticated)
			}
			_, err := s.reg.Propose(t.Context(), as(operator, &fsm.Expire{Session: "s"}))
			wantCode(t, err, api.Forbidden)
		}
		mustPropose(t, f, as(operator, setNode(2).Command))
		if err := l.reg.proposeOne(t.Context(), &fsm.SetNode{Id: "n3", Addr: "h:1"}); err != nil {
			t.Error(err)
		}
	})
}

// One caller may wait with so many commands; others are taken beside it, and the leader's own always.
func TestOneCallerLeavesRoomToOthers(t *testing.T) {
	c := newCommitter(nil) // nobody runs it
	put := func(who asker) error { return c.enqueue(&proposal{by: who, done: make(chan outcome, 1)}) }
	callers := []asker{askerOf(fsm.OriginOf(access.Who{Role: access.Anonymous}, "10.0.0.1", "")), askerOf(fsm.OriginOf(access.Who{Role: access.Anonymous}, "10.0.0.2", "")),
		askerOf(fsm.OriginOf(admin, "10.0.0.1", "")), askerOf(fsm.OriginOf(access.Who{Role: access.Admin, Token: "t1"}, "10.0.0.1", "")),
		askerOf(fsm.OriginOf(access.Who{Role: access.Admin, Token: "t2"}, "10.0.0.1", "")), askerOf(fsm.OriginOf(operator, "10.0.0.1", ""))}
	for _, who := range callers {
		for range maxOfOne {
			if err := put(who); err != nil {
				t.Fatalf("%+v: %v", who, err)
			}
		}
		err := put(who)
		if wantCode(t, err, api.Limit); !strings.Contains(err.Error(), fmt.Sprintf("the limit for one caller is %d", maxOfOne)) {
			t.Errorf("%v does not name the limit", err)
		}
	}
	for len(c.waiting) < maxWaiting {
		if err := put(asker{}); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, put(asker{}), api.Limit)
	for range proposeTogether {
		if err := put(asker{own: true}); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, put(asker{}), api.Limit)
	for len(c.take()) > 0 {
	}
	if len(c.by) != 0 {
		t.Errorf("nothing waits, and counted are %v", c.by)
	}
	if err := put(callers[0]); err != nil {
		t.Error(err)
	}
}
