package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs/certstest"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/scope"
)

// rig is three real servers: TCP on loopback, bolt in a temporary directory.
type rig struct {
	t     *testing.T
	peers []Peer
	root  string
	open  map[string]*Registry

	threshold uint64               // of snapshots; 0 is the default
	issuer    *certstest.Authority // nil without TLS
	timing    string
}

// freePeers are servers at free ports.
func freePeers(t *testing.T, ids ...string) (peers []Peer) {
	t.Helper()
	addrs, err := freeport.Addrs(len(ids))
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		peers = append(peers, Peer{ID: id, Addr: addrs[i]})
	}
	return peers
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, root: t.TempDir(), timing: "fast", open: map[string]*Registry{}, peers: freePeers(t, "s1", "s2", "s3")}
	t.Cleanup(r.closeAll)
	return r
}

func (r *rig) dir(id string) string { return filepath.Join(r.root, id) }

// identity is the content of a server's identity file.
func (r *rig) identity(id string) (who identity) {
	r.t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.dir(id), identityFile))
	if err == nil {
		err = json.Unmarshal(raw, &who)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return who
}

func (r *rig) config(id string) Config {
	cfg := Config{ID: id, DataDir: r.dir(id), Peers: r.peers, Timing: r.timing, SnapshotThreshold: r.threshold}
	if r.issuer != nil {
		cfg.Certs = r.issuer.Source(access.Who{Role: access.Server, ID: id})
	}
	return cfg
}

// start opens servers at the same time.
func (r *rig) start(ids ...string) {
	r.t.Helper()
	type opened struct {
		id  string
		reg *Registry
		err error
	}
	ch := make(chan opened)
	for _, id := range ids {
		go func() {
			ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
			defer cancel()
			reg, err := Open(ctx, r.config(id))
			ch <- opened{id, reg, err}
		}()
	}
	for range ids {
		o := <-ch
		if o.err != nil {
			r.t.Errorf("%s: %v", o.id, o.err)
			continue
		}
		r.open[o.id] = o.reg
	}
	if r.t.Failed() {
		r.t.FailNow()
	}
}

func (r *rig) closeAll() {
	for id := range r.open {
		r.close(id)
	}
}

func (r *rig) close(id string) {
	r.t.Helper()
	if err := r.open[id].Close(); err != nil {
		r.t.Errorf("closing %s: %v", id, err)
	}
	delete(r.open, id)
}

// refused opens a server that must not start.
func (r *rig) refused(cfg Config, says string) error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	reg, err := Open(ctx, cfg)
	if err == nil {
		r.t.Fatal(errors.Join(errors.New("the server started"), reg.Close()))
	}
	if !strings.Contains(err.Error(), says) || ctx.Err() != nil {
		r.t.Fatalf("got %q, want it to say %q", err, says)
	}
	return err
}

func TestBootstrapAndRestart(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	for i, id := range []string{"s1", "s2", "s3"} {
		if _, err := r.open[id].Propose(t.Context(), setNode(i)); err != nil {
			t.Fatal(err)
		}
	}
	cluster := r.open["s1"].State().Cluster().ID
	if cluster == "" || cluster != r.open["s2"].clusterID || cluster != r.open["s3"].clusterID {
		t.Fatalf("the servers disagree on cluster %q", cluster)
	}
	r.closeAll()
	if err := os.MkdirAll(filepath.Join(r.dir("s1"), snapshotDir, "1-2-3"+halfSnapshot), 0o700); err != nil {
		t.Fatal(err)
	}
	r.start("s1", "s2", "s3")
	for id, reg := range r.open {
		if _, err := reg.Confirm(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if _, ok := reg.State().Node(scope.NodeID("n" + string(rune('0'+i)))); !ok {
				t.Fatalf("%s lost node %d over a restart", id, i)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(r.dir("s1"), snapshotDir, "1-2-3"+halfSnapshot)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the half-written snapshot is still there: %v", err)
	}
	r.t.Log("a second process on the same directory")
	cfg := r.config("s1")
	_ = r.refused(cfg, "is locked")
}

func TestDamagedDirectoriesAreRefused(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	if _, err := r.open["s3"].Propose(t.Context(), setNode(1)); err != nil {
		t.Fatal(err)
	}
	r.close("s3")
	t.Log("another id")
	cfg := r.config("s2")
	cfg.DataDir = r.dir("s3")
	_ = r.refused(cfg, `belongs to server "s3"`)
	t.Log("a flipped byte")
	editBolt(t, r.dir("s3"), func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(logBucket))
		key, raw := b.Cursor().Last()
		bad := append([]byte(nil), raw...)
		bad[len(bad)/2] ^= 1
		return b.Put(append([]byte(nil), key...), bad)
	})
	var corrupt *CorruptError
	if err := r.refused(r.config("s3"), "corrupt"); !errors.As(err, &corrupt) {
		t.Fatalf("got %T", err)
	}
	t.Log("no raft store")
	if err := os.Remove(filepath.Join(r.dir("s3"), storeFile)); err != nil {
		t.Fatal(err)
	}
	_ = r.refused(r.config("s3"), "is gone")
	t.Log("nothing at all")
	if err := os.RemoveAll(r.dir("s3")); err != nil {
		t.Fatal(err)
	}
	var wiped *WipedError
	if err := r.refused(r.config("s3"), "does not rejoin under this id"); !errors.As(err, &wiped) || wiped.ID != "s3" {
		t.Fatalf("got %v", err)
	}
	if _, err := r.open["s1"].Propose(t.Context(), setNode(2)); err != nil {
		t.Fatal(err)
	}
}

// Whichever of the two hears of the other first says so and stops; the other one may then find nobody there.
func TestDifferentConfigurationsAreRefused(t *testing.T) {
	r := newRig(t)
	one, two := r.config("s1"), r.config("s2")
	one.Peers = r.peers[:2]
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 2)
	for _, cfg := range []Config{one, two} {
		go func() {
			_, err := Open(ctx, cfg)
			done <- err
		}()
	}
	first := <-done
	cancel()
	second := <-done
	if first == nil || second == nil {
		t.Fatalf("a server started: %v, %v", first, second)
	}
	for _, says := range []string{"give every server the same list", showPeers(one.Peers), showPeers(two.Peers)} {
		if !strings.Contains(first.Error(), says) {
			t.Errorf("%q does not say %q", first, says)
		}
	}
}

func TestAnotherClusterIsRefused(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.close("s3")
	who := r.identity("s3")
	who.Cluster = "0123456789abcdef"
	d := &dataDir{path: r.dir("s3")}
	if err := d.set(who); err != nil {
		t.Fatal(err)
	}
	r.start("s3")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := r.open["s3"].Confirm(ctx); err == nil {
		t.Fatal("a server of another cluster was served")
	}
	if err := r.open["s3"].Ready(); err == nil {
		t.Fatal("a server of another cluster is ready")
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	peers := []Peer{{"s1", "a:1"}, {"s2", "b:1"}}
	var many []Peer
	for i := range maxPeers + 1 {
		many = append(many, Peer{fmt.Sprintf("s%d", i), fmt.Sprintf("h%d:1", i)})
	}
	if err := (Config{ID: "s1", DataDir: "d", Peers: many[:maxPeers]}).Check(); err != nil {
		t.Error(err)
	}
	for says, cfg := range map[string]Config{
		`timing "slow"`:              {ID: "s1", DataDir: "d", Peers: peers, Timing: "slow"},
		`server id "s3"`:             {ID: "s3", DataDir: "d", Peers: peers},
		`server id ""`:               {DataDir: "d", Peers: peers},
		`data directory ""`:          {ID: "s1", Peers: peers},
		`"s1" is in the list twice`:  {ID: "s1", DataDir: "d", Peers: []Peer{{"s1", "a:1"}, {"s1", "b:1"}}},
		`"a:1" is in the list twice`: {ID: "s1", DataDir: "d", Peers: []Peer{{"s1", "a:1"}, {"s2", "a:1"}}},
		`address "a"`:                {ID: "s1", DataDir: "d", Peers: []Peer{{"s1", "a"}}},
		"has 0 entries":              {ID: "s1", DataDir: "d"},
		"has 10 entries, 1 to 9":     {ID: "s1", DataDir: "d", Peers: many},
		"two nodes could write":      {ID: "s1", DataDir: "d", Peers: peers, Leases: api.Leases{Renew: time.Second, Lease: 9 * time.Second, Deadline: 10 * time.Second, Late: time.Second}},
	} {
		if _, err := cfg.complete(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
	}
}
