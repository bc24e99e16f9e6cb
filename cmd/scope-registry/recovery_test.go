package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/registry"
)

// The tests here execute docs/operations.md, "Backup and recovery".

// fleet is servers on loopback, in this process.
type fleet struct {
	t       testing.TB
	root    string
	peers   []registry.Peer
	running map[string]*server
}

func newFleet(t testing.TB, ids ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, root: t.TempDir(), running: map[string]*server{}}
	addrs, err := freeport.Addrs(len(ids))
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		f.peers = append(f.peers, registry.Peer{ID: id, Addr: addrs[i]})
	}
	t.Cleanup(func() {
		for id := range f.running {
			f.stop(id)
		}
	})
	return f
}

func (f *fleet) dir(id string) string { return filepath.Join(f.root, id) }

// start starts servers, with these peers or all, and waits until they are ready.
func (f *fleet) start(peers []registry.Peer, ids ...string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex // guards running
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			s, err := startServer(ctx, serverConfig{HTTPListen: "127.0.0.1:0", Config: registry.Config{ID: id, DataDir: f.dir(id), Peers: peers, Timing: "fast", Logger: hclog.NewNullLogger()}})
			if err != nil {
				f.t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			f.running[id] = s
		})
	}
	wg.Wait()
	for _, id := range ids {
		if f.running[id] == nil {
			f.t.FailNow()
		}
		if err := f.running[id].waitReady(ctx); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fleet) stop(id string) {
	f.t.Helper()
	if err := f.running[id].Close(); err != nil {
		f.t.Error(err)
	}
	delete(f.running, id)
}

// at is the endpoints of the servers that run.
func (f *fleet) at() string {
	var all []string
	for _, p := range f.peers {
		if s := f.running[p.ID]; s != nil {
			all = append(all, "http://"+s.http)
		}
	}
	return strings.Join(all, ",")
}

func (f *fleet) client() *client.Client {
	c := client.New(strings.Split(f.at(), ","))
	f.t.Cleanup(c.Close)
	return c
}

// open opens a session for a node in the incarnation that the cluster is in, as
// an agent does once it has met that.
func (f *fleet) open(node string) {
	f.t.Helper()
	c := f.client()
	now, err := c.Cluster(f.t.Context(), false)
	if err != nil {
		f.t.Fatal(err)
	}
	session := fmt.Sprintf("%s-%d", node, now.Incarnation)
	if _, err := c.OpenSession(f.t.Context(), node, api.OpenSession{Identity: node + "-disk", Session: session, Token: strings.Repeat(node, 32),
		Incarnation: now.Incarnation, Tag: now.Tag, View: now.Index}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) lines(lines ...line) {
	f.t.Helper()
	t, ok := f.t.(*testing.T)
	if !ok {
		f.t.Fatal("a benchmark has no lines to look at")
	}
	runLines(t, f.at(), lines)
}

func TestRunbookRestoreOfARunningCluster(t *testing.T) {
	f := newFleet(t, "s1", "s2", "s3")
	f.start(f.peers, "s1", "s2", "s3")
	file := filepath.Join(f.root, "scopes.backup")
	f.lines(line{"node set a h:1", 0, ""}, line{"node set b h:2", 0, ""}, line{"scope declare app: --writer a", 0, ""},
		line{"move start app: --from a --to b --mode assisted --id m1", 0, ""},
		line{"backup save " + file, 0, `written +\d{4}-`}, line{"backup verify " + file, 0, `incarnation +1\n`},
		line{"move abort m1", 0, ""}, line{"scope declare later: --writer b", 0, ""}, line{"move start app: --from a --to b --mode assisted --id m2", 0, ""})
	f.open("a")
	// Somebody watches, and others change things all the time.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := f.client().Watch(ctx, 0)
	defer w.Close()
	if _, err := w.Next(); err != nil {
		t.Fatal(err)
	}
	load := f.load(ctx)
	f.lines(line{"backup restore " + file, 2, `(?s)replaces the state of cluster.*NO SCOPE TAKES WRITES.*a, b\..*does not end by itself.*give --yes`},
		line{"backup restore " + file + " --yes --incarnation 1", 4, "STALE_EPOCH"},
		line{"backup restore " + file + " --yes --from-cluster other", 2, "INVALID"},
		line{"backup restore " + file + " --yes --all-nodes-known -o json", 0, `(?s)"incarnation": 2.*"hold": ".*not yet: a, b`},
		line{"backup restore " + file + " --yes --incarnation 2", 4, "STALE_EPOCH"})
	cancelLoad, wrote := load()
	cancelLoad()
	if wrote == 0 {
		t.Error("nothing was written meanwhile")
	}
	for seen := uint64(0); seen < 2; {
		item, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		if seen = item.Incarnation; seen == 2 && item.Type != "snapshot" {
			t.Errorf("the watch went on with a %s", item.Type)
		}
	}
	for i := range 7 { // those that came after the restore have to meet it too
		id := fmt.Sprintf("x%d", i)
		if _, err := f.client().RemoveFencedNode(t.Context(), id, client.Fenced{Node: id}); err != nil && api.CodeOf(err) != api.NotFound {
			t.Fatal(err)
		}
	}
	f.lines(line{"scope get later:", 3, "NOT_FOUND"}, line{"move status m1", 0, "restored"}, line{"move status m2", 3, "NOT_FOUND"},
		line{"cluster status --hash", 0, "holds since the restore that began incarnation 2"}, line{"route app:1 --as a", 0, "QUIESCED"})
	f.sameEverywhere()
	// Node by node: one that has an agent, then one that will not come back.
	f.open("a")
	f.lines(line{"cluster status", 0, "not yet: b"}, line{"node remove b", 4, "WRONG_PHASE.*--source-fenced b"}, line{"node remove b --source-fenced a", 2, "INVALID"},
		line{"scope release app: --reason x", 2, "source-fenced"}, line{"scope release app: --source-fenced --incarnation 9 --reason x", 4, "STALE_EPOCH"},
		line{"scope release app: --source-fenced --incarnation 2 --reason off", 0, "released app:"}, line{"route app:1 --as a", 0, "OWNED"},
		line{"node remove b --source-fenced b", 0, "removed node b"}, line{"scope declare new: --writer a", 0, ""}, line{"route new:1 --as a", 0, "OWNED"},
		line{"scope release app: --source-fenced --reason off", 4, "does not hold"})
	// The server that comes back reads it all from the log.
	f.stop("s3")
	f.start(f.peers, "s3")
	f.sameEverywhere()
}

// load declares nodes until it is ended; done says how many.
func (f *fleet) load(ctx context.Context) (done func() (context.CancelFunc, int)) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan int)
	c, began := f.client(), make(chan struct{})
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			_, _ = c.SetNode(ctx, api.Node{ID: fmt.Sprintf("x%d", n%7), Addr: fmt.Sprintf("h:%d", 1+n%60000)}) // some fall to the restore
			if n == 3 {
				close(began)
			}
		}
		ended <- n
	}()
	<-began
	return func() (context.CancelFunc, int) { cancel(); return cancel, <-ended }
}

// sameEverywhere compares the states of all servers.
func (f *fleet) sameEverywhere() {
	f.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := f.client().Cluster(f.t.Context(), true)
		if err != nil {
			f.t.Fatal(err)
		}
		same := true
		for _, m := range s.Members {
			same = same && m.StateHash != "" && m.StateHash == s.Members[0].StateHash
		}
		if same {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("the states differ: %+v", s.Members)
		}
	}
}

func TestRunbookLossOfAllServers(t *testing.T) {
	old := newFleet(t, "s1")
	old.start(old.peers, "s1")
	file := filepath.Join(old.root, "scopes.backup")
	old.lines(line{"node set a h:1", 0, ""}, line{"scope declare app: --writer a", 0, ""})
	for i := range 30 { // its log is longer than that of the new cluster
		old.lines(line{fmt.Sprintf("node set a h:%d", i+2), 0, ""})
	}
	old.lines(line{"backup save " + file + " -o json", 0, ""})
	was, err := old.client().Cluster(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	old.stop("s1")
	f := newFleet(t, "s1", "s2", "s3")
	f.start(f.peers, "s1", "s2", "s3")
	f.lines(line{"backup restore " + file + " --yes", 2, "--from-cluster " + was.ID},
		line{"backup restore " + file + " --yes --all-nodes-known --from-cluster " + was.ID, 0, `(?s)ANOTHER CLUSTER.*incarnation +101\n`},
		line{"route app:1 --as a", 0, "QUIESCED"})
	now, err := f.client().Cluster(t.Context(), false)
	if err != nil || now.Index <= was.Index || now.ID == was.ID {
		t.Errorf("%+v, %v after index %d", now, err, was.Index)
	}
	f.open("a")
	f.lines(line{"route app:1 --as a", 0, "OWNED"}, line{"scope declare b: --writer a", 0, ""})
	f.sameEverywhere()
	for _, id := range []string{"s1", "s2", "s3"} { // from their logs and snapshots
		f.stop(id)
	}
	f.start(f.peers, "s1", "s2", "s3")
	f.lines(line{"route b:1 --as a", 0, "OWNED"})
	f.sameEverywhere()
}

func TestRunbookOneServerIsLeft(t *testing.T) {
	f := newFleet(t, "s1", "s2", "s3")
	f.start(f.peers, "s1", "s2", "s3")
	f.lines(line{"node set a h:1", 0, ""}, line{"scope declare app: --writer a", 0, ""})
	f.sameEverywhere()
	cmd := "cluster recover --data-dir " + f.dir("s1")
	f.lines(line{cmd, 1, "another process"})
	f.stop("s1")
	f.lines(line{"scope declare lost: --writer a", 0, ""}, line{cmd + " --yes", 4, "WRONG_PHASE: something answers at s2="})
	f.stop("s2")
	f.stop("s3")
	here := func(lines ...line) { t.Helper(); runLines(t, "http://127.0.0.1:1", lines) }
	here(line{cmd, 2, `(?s)makes server s1.*log ends at index \d+, term \d+.*LOST:.*MAY COME INTO FORCE:.*must never run again.*Incarnation 101 begins.*give --yes`},
		line{cmd + " --yes --incarnation 1", 4, "STALE_EPOCH"},
		line{"cluster recover --data-dir " + f.root, 1, "no data directory"})
	c, said := typing("s1\n")
	if err := runTyped(t, c, cmd+" --all-nodes-known"); err != nil || !strings.Contains(said.String(), "start it with --cluster s1="+f.peers[0].Addr) {
		t.Fatalf("%v\n%s", err, said)
	}
	here(line{cmd + " --yes", 1, "nothing to recover"})
	f.start(f.peers[:1], "s1")
	f.lines(line{"scope get lost:", 3, "NOT_FOUND"}, line{"route app:1 --as a", 0, "QUIESCED"}, line{"cluster status", 0, "incarnation 101"})
	f.open("a")
	f.lines(line{"route app:1 --as a", 0, "OWNED"})
}

// typing is a command line at a terminal at which somebody types.
func typing(text string) (*cli, *bytes.Buffer) {
	said := &bytes.Buffer{}
	return &cli{in: strings.NewReader(text), out: said, err: said, width: func() int { return 0 }, typed: func() bool { return true }}, said
}

func runTyped(t *testing.T, c *cli, args string) error {
	t.Helper()
	root := c.root()
	root.SetArgs(strings.Fields(args))
	root.SetOut(c.out)
	root.SetErr(c.err)
	return root.ExecuteContext(t.Context())
}

func TestRestoreIsAskedFor(t *testing.T) {
	at, file := saved(t)
	for _, text := range []string{"", "yes\n", "no"} {
		c, said := typing(text)
		if err := runTyped(t, c, "backup restore "+file+" --endpoints "+at); api.CodeOf(err) != api.Invalid || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%q: %v\n%s", text, err, said)
		}
	}
	var b backup
	var out bytes.Buffer
	if code := run(t.Context(), []string{"backup", "verify", file, "-o", "json"}, strings.NewReader(""), &out, &out); code != 0 {
		t.Fatal(out.String())
	}
	if err := json.Unmarshal(out.Bytes(), &b); err != nil {
		t.Fatal(err)
	}
	c, said := typing(b.Cluster + "\n")
	if err := runTyped(t, c, "backup restore "+file+" --endpoints "+at); err != nil || !regexp.MustCompile(`incarnation +2\n`).MatchString(said.String()) {
		t.Errorf("%v\n%s", err, said)
	}
}

func TestRestoreOfDamage(t *testing.T) {
	at, file := saved(t)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	runLines(t, at, []line{{"backup restore " + file + " --yes", 9, "CORRUPT"}, {"backup restore none --yes", 3, "NOT_FOUND"}, {"cluster status", 0, "1 running moves"}})
	runLines(t, "http://127.0.0.1:1", []line{{"backup restore " + file + " --yes", 9, "CORRUPT"}})
}

func TestStatementsNameFewNodes(t *testing.T) {
	st := fsm.State{}
	for i := range namedNodes + 3 {
		st, _, _ = st.Apply(fsm.At{Index: st.Index() + 1}, fsm.Envelope{Command: &fsm.SetNode{Id: fmt.Sprintf("n%02d", i), Addr: "h:1"}})
	}
	text := restoreStatement(backup{File: "f", Cluster: "c1", state: st}, api.Cluster{ID: "c2"}, restoreFlags{incarnation: 9, allNodesKnown: true})
	for _, want := range []string{"n08, n09, and 3 more", "ANOTHER CLUSTER, c1", "Incarnation 9 begins", "You say that no other node"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if text := nodesOf(fsm.State{}); !strings.Contains(text, "nothing holds") {
		t.Error(text)
	}
}

// Which directory to take is chosen by what is said of each.
func TestRecoverSaysWhoHasNoVote(t *testing.T) {
	for _, votes := range []bool{true, false} {
		said := recoverStatement(&registry.Survivor{Servers: []registry.Peer{{ID: "s1", Addr: "h1:1"}, {ID: "s2", Addr: "h2:1"}}, Votes: votes}, restoreFlags{})
		if strings.Contains(said, "NO VOTE") == votes {
			t.Errorf("votes: %v, said:\n%s", votes, said)
		}
	}
}
