package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/certs/certstest"
	"github.com/scope-registry/scope-registry/transport/peer"
)

// attacker speaks the protocol between servers as somebody.
type attacker struct {
	as    string
	mux   *peer.Mux
	trans *raft.NetworkTransport
}

// attack opens a port of an attacker. source may be nil.
func (r *rig) attack(id string, source *certs.Source) *attacker {
	r.t.Helper()
	cfg := peer.Config{Listen: "127.0.0.1:0", Identity: peer.Identity{ID: id, Cluster: func() string { return "" }},
		Handler: func(context.Context, string, peer.Kind, []byte) ([]byte, error) {
			return nil, errors.New("an attacker")
		}}
	if source != nil {
		cfg.Certs = source
	}
	mux, err := peer.Open(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: mux.StreamLayer(), MaxRPCsInFlight: 1, Timeout: 5 * time.Second, Logger: hclog.NewNullLogger()})
	r.t.Cleanup(func() {
		_ = trans.Close()
		_ = mux.Close()
	})
	return &attacker{as: id, mux: mux, trans: trans}
}

// attacks are requests each of which ends a cluster, or its leader, without the guard.
func attacks(as string, term uint64, leader string) map[string]func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
	head := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(as), Addr: []byte("127.0.0.1:1")}
	atLeader := head
	atLeader.Addr = []byte(leader)
	snapshot := func(edit func(*raft.InstallSnapshotRequest)) func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
		return func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
			req := &raft.InstallSnapshotRequest{RPCHeader: head, SnapshotVersion: 1, Term: term, LastLogIndex: 1 << 20, LastLogTerm: term, Size: 3,
				Configuration: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(as), Address: "127.0.0.1:1"}}})}
			edit(req)
			return tr.InstallSnapshot("x", to, req, new(raft.InstallSnapshotResponse), strings.NewReader("abc"))
		}
	}
	entries := func(es ...*raft.Log) func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
		return func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
			return tr.AppendEntries("x", to, &raft.AppendEntriesRequest{RPCHeader: head, Term: term, Entries: es}, new(raft.AppendEntriesResponse))
		}
	}
	vote := func(h raft.RPCHeader, term uint64, transfer bool) func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
		return func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
			resp := new(raft.RequestVoteResponse)
			err := tr.RequestVote("x", to, &raft.RequestVoteRequest{RPCHeader: h, Term: term, LastLogIndex: 1 << 40, LastLogTerm: term, LeadershipTransfer: transfer}, resp)
			if err == nil && !resp.Granted {
				err = errors.New("the vote was not granted")
			}
			return err
		}
	}
	return map[string]func(tr *raft.NetworkTransport, to raft.ServerAddress) error{
		"a heartbeat of a huge term": func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
			return tr.AppendEntries("x", to, &raft.AppendEntriesRequest{RPCHeader: head, Term: 1 << 63}, new(raft.AppendEntriesResponse))
		},
		"entries of a huge term": func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
			return tr.AppendEntries("x", to, &raft.AppendEntriesRequest{RPCHeader: head, Term: 1 << 63, PrevLogEntry: 1, LeaderCommitIndex: 1}, new(raft.AppendEntriesResponse))
		},
		"a configuration that is none": snapshot(func(q *raft.InstallSnapshotRequest) {
			q.Configuration = []byte{0x81, 0xa7, 'S', 'e', 'r', 'v', 'e', 'r', 's', 0xa1, 'x'}
		}),
		"a configuration without end":     snapshot(func(q *raft.InstallSnapshotRequest) { q.Configuration = bytes.Repeat([]byte{0x91}, 1<<19) }),
		"peers of the old form":           snapshot(func(q *raft.InstallSnapshotRequest) { q.SnapshotVersion, q.Peers = 0, []byte{0xc1} }),
		"a snapshot of less than nothing": snapshot(func(q *raft.InstallSnapshotRequest) { q.Size = -1 }),
		"an entry of a configuration":     entries(&raft.Log{Index: 1, Term: term, Type: raft.LogConfiguration, Data: []byte{0xc1}}),
		"no entry":                        entries(nil),
		"an entry of an unknown type":     entries(&raft.Log{Index: 1, Term: term, Type: 99}),
		"a vote for a transfer":           vote(head, term+1, true),
		"a vote for the leader's address": vote(atLeader, term+1, false),
		"a vote of a huge term":           vote(head, 1<<63, true),
		"the word to take over": func(tr *raft.NetworkTransport, to raft.ServerAddress) error {
			return tr.TimeoutNow("x", to, &raft.TimeoutNowRequest{RPCHeader: head}, new(raft.TimeoutNowResponse))
		},
	}
}

// besiege makes every attack on every server, and looks after each whether the cluster is as it was.
func (r *rig) besiege(a *attacker) {
	t := r.t
	t.Helper()
	l, term := r.leader()
	count := 0
	for name, attack := range attacks(a.as, term, l.cfg.addrOf(l.cfg.ID)) {
		for _, to := range r.open {
			if err := attack(a.trans, raft.ServerAddress(to.cfg.addrOf(to.cfg.ID))); err == nil {
				t.Errorf("as %s: %s was taken by %s", a.as, name, to.cfg.ID)
			}
			now, nowTerm := r.leader()
			if now != l || nowTerm != term {
				t.Errorf("as %s: after %s to %s server %s leads in term %d, before it was %s in %d", a.as, name, to.cfg.ID, now.cfg.ID, nowTerm, l.cfg.ID, term)
				l, term = now, nowTerm
			}
			count++
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if _, err := to.Propose(ctx, setNode(count)); err != nil {
				t.Fatalf("as %s: after %s to %s: %v", a.as, name, to.cfg.ID, err)
			}
			cancel()
		}
	}
}

// leader waits for one that all know.
func (r *rig) leader() (l *Registry, term uint64) {
	r.t.Helper()
	r.until("a leader that all know", func() bool {
		l = nil
		for _, reg := range r.open {
			id, _, _ := reg.Leader()
			if l == nil {
				l = r.open[id]
			}
			if l == nil || id != l.cfg.ID || l.raft.State() != raft.Leader {
				return false
			}
		}
		return true
	})
	return l, l.raft.CurrentTerm()
}

// besieged is a cluster that s1 leads, and that a slow machine does not make elect another.
func besieged(t *testing.T, issuer *certstest.Authority) *rig {
	t.Helper()
	r := newRig(t)
	r.issuer, r.timing = issuer, "wan"
	r.start("s1", "s2", "s3")
	r.until("s1 to lead", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return r.open["s1"].Transfer(ctx, "s1") == nil && r.open["s1"].raft.State() == raft.Leader
	})
	return r
}

func TestAttacksUnderTLS(t *testing.T) {
	r := besieged(t, certstest.New(t))
	server := func(id string) *certs.Source { return r.issuer.Source(access.Who{Role: access.Server, ID: id}) }
	for name, a := range map[string]*attacker{
		"no certificate":                r.attack("s3", nil),
		"a node's":                      r.attack("n1", r.issuer.Source(access.Who{Role: access.Node, ID: "n1"})),
		"a node's, as a server":         r.attack("s3", r.issuer.Source(access.Who{Role: access.Node, ID: "s3"})),
		"an admin's":                    r.attack("s3", r.issuer.Source(access.Who{Role: access.Admin})),
		"a server's that is no member":  r.attack("s9", server("s9")),
		"that of s9, as s3":             r.attack("s3", server("s9")),
		"a server's of another cluster": r.attack("s3", r.issuer.SourceOf("other", access.Who{Role: access.Server, ID: "s3"})),
		"another authority's":           r.attack("s3", certstest.New(t).Source(access.Who{Role: access.Server, ID: "s3"})),
		"a member's":                    r.attack("s3", server("s3")),
	} {
		t.Run(name, func(t *testing.T) {
			outer := r.t
			r.t = t
			defer func() { r.t = outer }()
			r.besiege(a)
		})
	}
	dropped := uint64(0)
	for _, reg := range r.open {
		dropped += reg.Dropped()
	}
	if dropped == 0 {
		t.Error("no guard has dropped anything, so that the member's attacks did not reach one")
	}
}

// Without TLS the port believes names, and the guard holds all the same.
func TestAttacksWithoutTLS(t *testing.T) {
	r := besieged(t, nil)
	for _, id := range []string{"s9", "s3"} {
		r.besiege(r.attack(id, nil))
	}
}

// What a connection gets to hear that shows no certificate, and that a certificate's id is the only one.
func TestPortUnderTLS(t *testing.T) {
	r := newRig(t)
	r.issuer = certstest.New(t)
	r.start("s1", "s2", "s3")
	addr := r.peers[0].Addr
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // it is an attacker
	if err == nil {                                                                                         // in TLS 1.3 the client is told only when it reads
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	if conn, err = tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil { //nolint:gosec // it is an attacker
		_ = conn.Close()
		t.Error("TLS 1.2 was taken")
	}
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(plain, "scrg\x01\x02\x00\x00")
	if got, _ := io.ReadAll(plain); bytes.HasPrefix(got, []byte("scrg")) {
		t.Errorf("a hello without TLS was answered %q", got)
	}
	_ = plain.Close()

	for says, a := range map[string]*attacker{
		`certificate is that of server \"s9\"`: r.attack("s2", r.issuer.Source(access.Who{Role: access.Server, ID: "s9"})),
		"that of node/n1":                      r.attack("n1", r.issuer.Source(access.Who{Role: access.Node, ID: "n1"})),
		`this program's of "other"`:            r.attack("s2", r.issuer.SourceOf("other", access.Who{Role: access.Server, ID: "s2"})),
	} {
		if _, err := a.mux.Call(t.Context(), addr, peer.KindHello, nil); err == nil || !strings.Contains(fmt.Sprintf("%q", err), says) && !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %s", err, says)
		}
	}
	stranger := r.attack("s9", r.issuer.Source(access.Who{Role: access.Server, ID: "s9"}))
	if _, err := stranger.mux.Call(t.Context(), addr, peer.KindHello, nil); err != nil {
		t.Errorf("a server that may want to join: %v", err)
	}
	raw, err := stranger.mux.Call(t.Context(), addr, peer.KindConfirm, nil)
	if err != nil || raw[0] != replyRetry || !strings.Contains(string(raw), "is not one of") {
		t.Errorf("a stranger's call: %q, %v", raw, err)
	}

	cfg := r.config("s1")
	cfg.Certs = r.issuer.Source(access.Who{Role: access.Server, ID: "s2"})
	_ = r.refused(cfg, "the certificate is that of server/s2")
}

// A server that was down knows neither who has joined meanwhile, nor that one of them leads.
func TestLeaderThatIsUnknownHere(t *testing.T) {
	r := newRig(t)
	r.issuer = certstest.New(t)
	r.start("s1", "s2", "s3")
	r.close("s3")
	p := freePeers(t, "s4")[0]
	opened := r.joining(p)
	r.join("s1", p)
	opened()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := r.open["s2"].Remove(ctx, fsm.Envelope{}, "s1", false); err != nil {
		t.Fatal(err)
	}
	r.gone("s1")
	if err := r.open["s2"].Transfer(ctx, "s4"); err != nil {
		t.Fatal(err)
	}
	r.until("s4 to lead", func() bool { return r.open["s4"].raft.State() == raft.Leader })
	began := time.Now()
	r.start("s3")
	r.until("s3 to be ready", func() bool { return r.open["s3"].Ready() == nil })
	t.Logf("s3 was ready after %v", time.Since(began))
	if id, _, _ := r.open["s3"].Leader(); id != "s4" {
		t.Errorf("it follows %q", id)
	}
	if _, err := r.open["s3"].Propose(ctx, setNode(1)); err != nil {
		t.Error(err)
	}
}

// A server that was down while all others were replaced has nobody left to ask but those that it is started with.
func TestEverybodyElseWasReplaced(t *testing.T) {
	r := newRig(t)
	r.issuer = certstest.New(t)
	r.start("s1", "s2", "s3")
	r.close("s3")
	next := freePeers(t, "s4", "s5")
	for i, old := range []string{"s1", "s2"} {
		opened := r.joining(next[i])
		via := []string{"s2", "s4"}[i]
		r.join(via, next[i])
		opened()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if _, err := r.open[via].Remove(ctx, fsm.Envelope{}, old, false); err != nil {
			t.Fatal(err)
		}
		cancel()
		r.gone(old)
	}
	r.start("s3")
	s3 := r.open["s3"]
	r.until("s4 or s5 to be refused", func() bool { return s3.refuses("s4") != "" && s3.refuses("s5") != "" })
	if s3.Ready() == nil {
		t.Error("it is ready without anybody that it knows")
	}
	r.close("s3")
	r.peers = append([]Peer{r.peers[2]}, next...)
	r.start("s3")
	r.until("s3 to be ready", func() bool { return r.open["s3"].Ready() == nil })
}

// A server that joins takes the term that the cluster is in, also one that nobody may jump to.
func TestJoinAtAHighTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		for _, s := range n.servers {
			if err := s.reg.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range n.servers {
			if err := s.store.SetUint64([]byte(raftTermKey), 1_000_000_000); err != nil {
				t.Fatal(err)
			}
			s.restart()
		}
		n.heal()
		n.ready()
		n.waiting("s4")
		if _, err := n.other().reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); err != nil {
			t.Fatal(err)
		}
		n.votes("s4")
		if term := n.servers["s4"].now().raft.CurrentTerm(); term <= 1_000_000_000 {
			t.Errorf("it is in term %d", term)
		}
	})
}

// The servers that count as members for what others say are those that the others name, for as long as that is fresh.
func TestMembersAsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		r := n.servers["s3"].reg
		if got := r.membersAsSaid(); len(got) != 3 || !got["s1"] || !got["s2"] || !got["s3"] {
			t.Errorf("the others name %v", got)
		}
		n.servers["s1"].rename("s9") // another server answers at its address
		n.servers["s2"].rename("s8")
		if got := r.membersAsSaid(); len(got) > 0 {
			t.Errorf("servers that are not who they should be name %v", got)
		}
		r.met.set(map[string]bool{"s4": true})
		if r.refuses("s4") != "" || r.refuses("s1") != "" {
			t.Error("a member is refused")
		}
		if why := r.refuses("s5"); !strings.Contains(why, "asks them whether there are others") {
			t.Errorf("a server that nobody knows: %q", why)
		}
		<-time.After(2 * meetEvery) // nobody is there to say anything else
		if r.refuses("s4") != "" {
			t.Error("a round without an answer made it forget")
		}
		<-time.After(believedFor)
		if r.refuses("s4") == "" {
			t.Error("what was said is believed for ever")
		}
		n.servers["s1"].rename("s1")
		n.servers["s2"].rename("s2")
	})
}
