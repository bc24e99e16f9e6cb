package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/transport/peer"
)

var errCrash = errors.New("the process ended here")

// dying is a raft store whose process ends before one of its writes.
type dying struct {
	*store
	left int // writes that still happen
}

func (d *dying) write() error {
	if d.left == 0 {
		return errCrash
	}
	d.left--
	return nil
}

func (d *dying) SetUint64(key []byte, val uint64) error {
	if err := d.write(); err != nil {
		return err
	}
	return d.store.SetUint64(key, val)
}

func (d *dying) StoreLog(log *raft.Log) error {
	if err := d.write(); err != nil {
		return err
	}
	return d.store.StoreLog(log)
}

func (d *dying) DeleteRange(min, max uint64) error {
	if err := d.write(); err != nil {
		return err
	}
	return d.store.DeleteRange(min, max)
}

// crash lets a server decide on the servers given, and ends it after so many writes to its raft store, at the latest before
// its identity says that it was founded. It is false when there are less writes.
func (r *rig) crash(id string, with []Peer, writes int) bool {
	t := r.t
	t.Helper()
	cfg := r.config(id)
	cfg.Peers = with
	cfg, err := cfg.complete()
	if err != nil {
		t.Fatal(err)
	}
	s, _ := mustOpen(t, cfg.DataDir)
	defer mustClose(t, s)
	snaps, dir, err := openDir(cfg, s, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	conf, err := cfg.raftConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir.path = filepath.Join(dir.path, "gone") // the identity cannot be written any more
	f := &founding{cfg: cfg, dir: dir, log: hclog.NewNullLogger()}
	d := &dying{store: s, left: writes}
	err = f.decide(map[string]string{id: dir.identity().Instance}, conf, d, snaps)
	if err == nil {
		t.Fatal("the identity was written")
	}
	return d.left == 0
}

// formed checks that the servers are one cluster of just these servers.
func (r *rig) formed() {
	t := r.t
	t.Helper()
	cluster, ids := "", []string{"s1", "s2", "s3"}
	for i, id := range ids {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := r.open[id].Propose(ctx, setNode(i)); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		cancel()
	}
	for _, id := range ids {
		reg := r.open[id]
		if cluster == "" {
			cluster = reg.clusterID
		}
		if reg.clusterID != cluster {
			t.Fatalf("%s founded cluster %q, s1 %q", id, reg.clusterID, cluster)
		}
		future := reg.raft.GetConfiguration()
		if err := future.Error(); err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(future.Configuration().Servers), fmt.Sprint(r.config(id).voters().Servers); got != want {
			t.Fatalf("raft of %s has the servers %s, want %s", id, got, want)
		}
		status, err := reg.Status(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range status.Members {
			if m.Error != "" {
				t.Fatalf("%s says of %s: %s", id, m.ID, m.Error)
			}
		}
	}
}

// A crash may cut bootstrap off before any of its writes, on one server or on all, and the operator may have corrected the
// list before the next start. The cluster forms all the same, with the servers of the list, and none goes on alone.
func TestCrashWhileFounding(t *testing.T) {
	all := func(r *rig) []Peer { return r.peers }
	alone := func(r *rig) []Peer { return r.peers[:1] }
	other := func(r *rig) []Peer { return []Peer{r.peers[0], {ID: "s9", Addr: "127.0.0.1:1"}} }
	for _, c := range []struct {
		name string
		list func(*rig) []Peer
		ids  []string
	}{
		{"one of three", all, []string{"s1"}},
		{"all three", all, []string{"s1", "s2", "s3"}},
		{"with a list of itself alone", alone, []string{"s1"}},
		{"with another list", other, []string{"s1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for writes := 0; ; writes++ {
				r := newRig(t)
				more := true
				for _, id := range c.ids {
					more = r.crash(id, c.list(r), writes) && more
				}
				if !more {
					if writes < 3 {
						t.Fatalf("bootstrap writes %d times only", writes-1)
					}
					return
				}
				r.alone("s1")
				r.start("s1", "s2", "s3")
				r.formed()
				r.closeAll()
			}
		})
	}
}

// alone checks that a server which finds nobody waits.
func (r *rig) alone(id string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*helloEvery)
	defer cancel()
	reg, err := Open(ctx, r.config(id))
	if err == nil {
		r.t.Fatal(errors.Join(errors.New("it started alone"), reg.Close()))
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		r.t.Fatalf("got %v, want it to wait for the others", err)
	}
}

// Two crashes: the second one while the first one's remains are being cleared away.
func TestCrashWhileFoundingAgain(t *testing.T) {
	for writes := 0; ; writes++ {
		r := newRig(t)
		if !r.crash("s1", r.peers[:1], 2) {
			t.Fatal("bootstrap writes less than before")
		}
		if !r.crash("s1", r.peers, writes) {
			return
		}
		r.start("s1", "s2", "s3")
		r.formed()
		r.closeAll()
		r.start("s1", "s2", "s3")
		r.formed()
		r.closeAll()
	}
}

// An identity that was never bootstrapped beside a store in which raft ran: one of the two is another directory's, and the
// votes in it must not be forgotten.
func TestUsedStoreWithANewIdentityIsRefused(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.formed()
	r.close("s1")
	who := r.identity("s1")
	who.Founders, who.Cluster, who.Bootstrapped = nil, "", false
	if err := (&dataDir{path: r.dir("s1")}).set(who); err != nil {
		t.Fatal(err)
	}
	_ = r.refused(r.config("s1"), "never took part")
}

func TestJudge(t *testing.T) {
	peers := []Peer{{"s1", "a:1"}, {"s2", "b:1"}}
	f := &founding{cfg: Config{ID: "s1", Peers: peers}}
	self := identity{ID: "s1", Instance: "one"}
	others := identity{ID: "s2", Bootstrapped: true, Founders: map[string]string{"s2": "x", "s4": "y"}, Peers: peers[1:]}
	for _, c := range []struct {
		says string
		who  helloAnswer
	}{
		{"", helloAnswer{identity: identity{ID: "s2", Peers: peers}}},
		{`is "s3", not "s2"`, helloAnswer{identity: identity{ID: "s3", Peers: peers}}},
		{"give every server the same list", helloAnswer{identity: identity{ID: "s2", Peers: peers[1:]}}},
		{"give every server the same list", helloAnswer{identity: identity{ID: "s2", Bootstrapped: true, Founders: map[string]string{"s1": "one"}, Peers: peers[1:]}}},
		{"does not rejoin", helloAnswer{identity: identity{ID: "s2", Bootstrapped: true, Founders: map[string]string{"s1": "another", "s2": "x"}, Peers: peers}}},
		{"", helloAnswer{identity: others}},
		{"", helloAnswer{identity: others, You: standing{Instance: "one"}}},
		{"does not rejoin", helloAnswer{identity: others, You: standing{Instance: "another"}}},
		{"does not rejoin", helloAnswer{identity: others, You: standing{Member: true}}},
		{"was removed", helloAnswer{identity: others, You: standing{Instance: "one", Removed: true}}},
	} {
		err := f.judge(self, peers[1], c.who)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v, want it to say %q", err, c.says)
		}
	}
}

// deaf is a network on which one server takes calls and never answers, and the others say who they are.
type deaf struct {
	to      string
	answers map[string]identity
}

func (d deaf) Call(ctx context.Context, addr string, _ peer.Kind, _ []byte) ([]byte, error) {
	if addr == d.to {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return json.Marshal(d.answers[addr])
}

// A server that hangs must not keep another one from saying that this one was wiped.
func TestHelloHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := []Peer{{"s1", "a:1"}, {"s2", "b:1"}, {"s3", "c:1"}}
		founded := identity{ID: "s2", Peers: peers, Bootstrapped: true, Founders: map[string]string{"s1": "another"}}
		f := &founding{cfg: Config{ID: "s1", Peers: peers}, dir: &dataDir{who: identity{ID: "s1", Instance: "one"}},
			calls: deaf{"c:1", map[string]identity{"b:1": founded}}}
		start := time.Now()
		_, _, err := f.ask(t.Context())
		var wiped *WipedError
		if took := time.Since(start); !errors.As(err, &wiped) || wiped.Witness != "s2" || took != helloTimeout {
			t.Fatalf("after %v: %v; want after %v that s2 knows better", took, err, helloTimeout)
		}
	})
}
