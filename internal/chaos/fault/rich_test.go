package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/direct"
	"github.com/scope-registry/scope-registry/internal/link"
	"github.com/scope-registry/scope-registry/internal/load"
)

// rich is a cluster that can do all that targets can.
type rich struct {
	*fake
	net      *link.Net
	dir      string // of data
	voters   int
	says     string // what servers log
	looked   int    // calls of Inspect
	during   func() // called when a fault looks at what it struck, once
	started  []map[string]string
	onStart  func(id string)
	failures map[string]int // command → how often it still fails
}

func (r *rich) Nodes() []string        { return []string{"d1", "d2"} }
func (r *rich) Net() *link.Net         { return r.net }
func (r *rich) Ended(id string) error  { return r.note("ended", id) }
func (r *rich) Remove(id string) error { return r.note("remove", id) }
func (r *rich) Log(context.Context, string) (string, error) {
	return "first line\n" + r.says + "\nlast line\n", nil
}

// note notes a command that changes no machine.
func (r *rich) note(words ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, strings.Join(words, " "))
	if r.failures[words[0]] > 0 {
		r.failures[words[0]]--
		return errors.New(words[0] + " does not work")
	}
	return nil
}

func (r *rich) Inspect(ctx context.Context, id string) (history.Machine, error) {
	if r.looked++; r.looked == len(r.Servers())+len(r.Nodes())+1 && r.during != nil {
		r.during()
	}
	return r.fake.Inspect(ctx, id)
}

func (r *rich) Start(ctx context.Context, id string) error {
	r.started = append(r.started, files(filepath.Join(r.dir, id)))
	if r.failures["start"] > 0 {
		return r.note("start", id)
	}
	err := r.fake.Start(ctx, id)
	if r.onStart != nil {
		r.onStart(id)
	}
	return err
}

func (r *rich) Disk(_ context.Context, id string, change func(dir string) error) error {
	if err := r.note("disk", id); err != nil {
		return err
	}
	return change(filepath.Join(r.dir, id))
}

func (r *rich) FailPoint(id string, what load.Disk, say string) (func() error, error) {
	if what == load.Fails {
		r.exit(id)
	}
	return func() error { return r.note("undo", id) }, r.note("fail", id, string(what), say)
}

func (r *rich) Add(_ context.Context, id string) (string, error) {
	r.mu.Lock()
	r.machines[id] = history.Machine{State: "running", PID: 9, Peer: "10.0.0.50"}
	r.mu.Unlock()
	return "10.0.0.50:1", r.note("add", id)
}

// exit has a machine end by itself.
func (r *rich) exit(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, r.machines[id].Peer)
	r.machines[id] = history.Machine{State: "exited"}
}

// members answers what has to do with joining and leaving; false is for another question.
func (r *rich) members(w http.ResponseWriter, req *http.Request) bool {
	switch {
	case req.Method == http.MethodDelete:
		_ = r.note("leave", filepath.Base(req.URL.Path))
	case req.URL.Path == "/v1/cluster/members":
		var m struct{ ID, Addr string }
		_ = json.NewDecoder(req.Body).Decode(&m)
		_ = r.note("join", m.ID, m.Addr)
		r.voters++
	case req.URL.Path == "/v1/cluster":
		c := api.Cluster{Members: slices.Repeat([]api.Member{{Voter: true}}, r.voters)}
		w.Header().Set(api.HeaderIndex, "1")
		_ = json.NewEncoder(w).Encode(c)
		return true
	default:
		return false
	}
	w.Header().Set(api.HeaderIndex, "1")
	_, _ = w.Write([]byte("{}"))
	return true
}

// files is what a directory holds, by name.
func files(dir string) map[string]string {
	out := map[string]string{}
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			data, _ := os.ReadFile(path)
			out[strings.TrimPrefix(path, dir+"/")] = string(data)
		}
		return nil
	})
	return out
}

const theLog, theJournal = "entry chaos:01: entry chaos:02:", "entry chaos:03:"

func newRich(t *testing.T) (*Env, *rich) {
	t.Helper()
	e, f := newEnv(t)
	r := &rich{fake: f, net: link.New(), dir: t.TempDir(), voters: 3, failures: map[string]int{}}
	for i, id := range r.Nodes() {
		f.machines[id] = history.Machine{State: "running", PID: 10 + i, Peer: fmt.Sprintf("10.0.1.%d", i), Node: true}
	}
	for i, id := range r.Servers() {
		older, newer := filepath.Join(r.dir, id, "snapshots", "1"), filepath.Join(r.dir, id, "snapshots", "2")
		if err := errors.Join(os.MkdirAll(older, 0o700), os.MkdirAll(newer, 0o700), os.WriteFile(filepath.Join(r.dir, id, "raft.db"), []byte(theLog), 0o600),
			os.WriteFile(filepath.Join(r.dir, id, "raft.journal"), []byte(theJournal), 0o600), os.WriteFile(filepath.Join(older, "state.bin"), []byte("older"), 0o600), os.WriteFile(filepath.Join(newer, "state.bin"), []byte("newer"), 0o600),
			os.Chtimes(filepath.Join(older, "state.bin"), time.Time{}, time.Unix(int64(1000+i), 0))); err != nil {
			t.Fatal(err)
		}
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !r.members(w, req) {
				f.answer(id, w, req)
			}
		}))
		t.Cleanup(ts.Close)
		e.Servers[id] = direct.New(id, ts.URL, nil)
		t.Cleanup(e.Servers[id].Close)
	}
	calls := 0
	e.Owner = func(context.Context, int) (string, string, error) {
		switch calls++; calls {
		case 1:
			return "", "", errors.New("no leader")
		case 2:
			return "d2", "", nil // it does not move
		default:
			return "d2", "d1", nil
		}
	}
	e.Target = r
	return e, r
}

// run does a fault that must end without an error.
func run(t *testing.T, e *Env, name string) history.Fault {
	t.Helper()
	kind, err := Named(name)
	if err != nil {
		t.Fatal(err)
	}
	rec := e.Run(t.Context(), kind, false)
	if rec.Error != "" || len(rec.Servers) == 0 || rec.Active < rec.Begin || rec.Heal <= rec.Active || rec.End < rec.Heal {
		t.Fatalf("recorded %+v", rec)
	}
	return rec
}

func did(t *testing.T, r *rich, want string) {
	t.Helper()
	if got := strings.Join(r.asked, ", "); got != want {
		t.Errorf("did %s, want %s", got, want)
	}
}

// TestEverythingIsPossible: there are targets for every fault.
func TestEverythingIsPossible(t *testing.T) {
	_, r := newRich(t)
	every, err := Plan(Every, r, 7)
	if err != nil || every.Len() != len(All()) {
		t.Errorf("%v, %v", every, err)
	}
}

func TestNodeFaults(t *testing.T) {
	for name, want := range map[string]string{
		history.KillOwner: "kill d2, start d2", history.KillTarget: "kill d1, start d1", history.PauseOwner: "pause d2, resume d2",
		history.CutOwner: "cut d2, mend d2", history.KillNodes: "kill d1, kill d2, start d2, start d1",
	} {
		t.Run(name, func(t *testing.T) {
			e, r := newRich(t)
			rec := run(t, e, name)
			did(t, r, want)
			for _, id := range rec.Servers {
				if rec.During[id] == rec.Before[id] {
					t.Errorf("%s is %+v while it lasts, as before", id, rec.During[id])
				}
			}
			if len(rec.Servers) == 1 && len(rec.Ways) != 2*len(r.Servers()) {
				t.Errorf("looked at the links %+v", rec.Ways)
			}
		})
	}
}

// TestTargetWhileNothingMoves: beside faults that leave no majority any node will do.
func TestTargetWhileNothingMoves(t *testing.T) {
	e, _ := newRich(t)
	e.Owner = func(context.Context, int) (string, string, error) { return "", "", errors.New("nobody leads") }
	kill, err := Named(history.KillTarget)
	if err != nil {
		t.Fatal(err)
	}
	if rec := e.Run(t.Context(), kill, true); rec.Error != "" || len(rec.Servers) != 1 || rec.During[rec.Servers[0]].State != "exited" {
		t.Errorf("recorded %+v", rec)
	}
}

// sinks are an end at each server, which takes what comes over cables; calls is who sends to whom.
type sinks struct {
	ends   map[string]net.Listener
	cables map[link.Way]*link.Cable
}

func newSinks(t *testing.T, r *rich) sinks {
	t.Helper()
	s := sinks{ends: map[string]net.Listener{}, cables: map[link.Way]*link.Cable{}}
	for _, to := range r.Servers() {
		for _, from := range without(r.Servers(), to) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			cable, err := r.net.Lay(link.Named(from), to, ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			s.ends[from+to], s.cables[link.Way{From: from, To: to}] = ln, cable
			t.Cleanup(func() { _, _ = cable.Close(), ln.Close() })
		}
	}
	return s
}

// send sends one byte every way.
func (s sinks) send(t *testing.T) {
	t.Helper()
	for _, c := range s.cables {
		conn, err := net.Dial("tcp", c.Addr())
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

// arrived waits until the bytes of all ways have arrived.
func (s sinks) arrived(t *testing.T) {
	t.Helper()
	for _, ln := range s.ends {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	}
}

// TestLinkFaults sends something every way while a fault lasts: nothing passes where it is cut, and all arrives afterwards.
func TestLinkFaults(t *testing.T) {
	toLeader, fromLeader := "s2→s1 s3→s1", "s1→s2 s1→s3"
	ofLeader := "s1→s2 s1→s3 s2→s1 s3→s1"
	all := "s1→s2 s1→s3 s2→s1 s2→s3 s3→s1 s3→s2"
	for name, c := range map[string]struct {
		ways, did string
		cut       bool
	}{
		history.DeafLeader: {toLeader, "", true}, history.MuteLeader: {fromLeader, "", true}, history.HalfOpen: {ofLeader, "kill s1, start s1", true},
		history.SlowLeader: {ofLeader, "", false}, history.SlowAll: {all, "", false}, history.LossyAll: {all, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			e, r := newRich(t)
			s := newSinks(t, r)
			r.during = func() {
				s.send(t)
				if name != history.HalfOpen && c.cut { // what the others would see of a leader that they do not hear
					r.mu.Lock()
					r.wanted = "s2"
					r.mu.Unlock()
				}
			}
			rec := run(t, e, name)
			did(t, r, c.did)
			s.arrived(t)
			var ways []string
			for _, w := range rec.Ways {
				ways = append(ways, w.From+"→"+w.To)
				switch {
				case w.Cut != c.cut, w.Cut && w.Heal != w.Active:
					t.Errorf("%+v", w)
				case !w.Cut && (w.DelayMS < leastDelay.Milliseconds() || w.DelayMS > (leastDelay+mostDelay).Milliseconds() ||
					name != history.LossyAll && w.Heal > w.Active && w.SlowestMS < w.DelayMS):
					t.Errorf("%+v", w)
				}
			}
			if slices.Sort(ways); strings.Join(ways, " ") != c.ways {
				t.Errorf("changed %v, want %s", ways, c.ways)
			}
			if c.cut && rec.Elected != "s2" {
				t.Errorf("elected %q", rec.Elected)
			}
		})
	}
}

func TestDiskFaults(t *testing.T) {
	for name, c := range map[string]struct {
		want  string
		fails bool
	}{
		history.SlowDisk:    {`fail s1 raft\.db\.slow \d+ms, undo s1`, false},
		history.FullDisk:    {`fail s1 raft\.db\.full , fail s2 raft\.db\.full , fail s3 raft\.db\.full , undo s3, undo s2, undo s1`, false},
		history.FailingDisk: {`fail s1 raft\.db\.fails , undo s1, ended s1, start s1`, true},
	} {
		e, r := newRich(t)
		rec := run(t, e, name)
		if got := strings.Join(r.asked, ", "); !regexp.MustCompile("^" + c.want + "$").MatchString(got) {
			t.Errorf("%s: did %s, want %s", name, got, c.want)
		}
		if c.fails != (rec.During["s1"].State == "exited") || c.fails != (rec.Elected == "s2") {
			t.Errorf("%s: during %+v, elected %q", name, rec.During, rec.Elected)
		}
	}
}

// bits is how many bits differ between two texts.
func bits(a, b string) (n int) {
	for i := range min(len(a), len(b)) {
		for x := a[i] ^ b[i]; x != 0; x &= x - 1 {
			n++
		}
	}
	return n + 8*max(len(a)-len(b), len(b)-len(a))
}

// TestDamage: the server starts on what is damaged, and then on what it had.
func TestDamage(t *testing.T) {
	whole := map[string]string{"raft.db": theLog, "raft.journal": theJournal, "snapshots/1/state.bin": "older", "snapshots/2/state.bin": "newer"}
	for _, c := range []struct {
		name, says, want string
		dies             bool
		damaged          func(map[string]string) bool
	}{
		{history.Wipe, saysWiped, "stop s3, disk s3, start s3, kill s3, disk s3, start s3", false, func(m map[string]string) bool { return len(m) == 0 }},
		{history.FlipLog, saysCorrupt, "stop s3, disk s3, start s3, ended s3, disk s3, start s3", true, func(m map[string]string) bool {
			return bits(m["raft.db"], theLog) == 2 && bits(m["raft.journal"], theJournal) == 1 && len(m) == 4 // one of each entry of the clients
		}},
		{history.FlipSnapshot, saysAside, "stop s3, disk s3, start s3, kill s3, disk s3, start s3", false, func(m map[string]string) bool {
			return bits(m["snapshots/2/state.bin"], "newer") == 1 && m["snapshots/1/state.bin"] == "older" && m["raft.db"] == theLog
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, r := newRich(t)
			r.says = "the server says: it " + c.says
			r.onStart = func(id string) {
				if c.dies && len(r.started) == 1 {
					r.exit(id)
				}
			}
			rec := run(t, e, c.name)
			did(t, r, c.want)
			if len(r.started) != 2 || !c.damaged(r.started[0]) {
				t.Errorf("started on %q", r.started)
			}
			// What is wrong with a snapshot is not undone: the server has set it aside.
			if c.name != history.FlipSnapshot && !maps.Equal(r.started[1], whole) {
				t.Errorf("started at last on %q, want %q", r.started[1], whole)
			}
			if rec.Said != r.says || rec.Silent != c.dies || c.dies != (rec.During["s3"].State == "exited") {
				t.Errorf("recorded %+v", rec)
			}
		})
	}
}

// TestDamageThatCannotBeDone: the data are whole again, and the server runs.
func TestDamageThatCannotBeDone(t *testing.T) {
	for what, c := range map[string]struct{ did, says string }{
		"start": {"stop s3, disk s3, start s3, ended s3, disk s3, start s3", "start does not work"},
		"disk":  {"stop s3, disk s3, start s3", "the data of s3 could not be damaged: disk does not work"},
	} {
		e, r := newRich(t)
		r.failures[what] = 1
		kind, err := Named(history.Wipe)
		if err != nil {
			t.Fatal(err)
		}
		rec := e.Run(t.Context(), kind, false)
		if did(t, r, c.did); rec.Error != c.says || r.machines["s3"].State != "running" || r.started[len(r.started)-1]["raft.db"] != theLog {
			t.Errorf("%s: %s; started on %q, and is %+v", what, rec.Error, r.started, r.machines["s3"])
		}
	}
}

// TestFlipSnapshotWaitsForOne: a server without a snapshot is left alone for a while.
func TestFlipSnapshotWaitsForOne(t *testing.T) {
	e, r := newRich(t)
	r.says = saysAside
	aside := filepath.Join(r.dir, "aside")
	if err := os.Rename(filepath.Join(r.dir, "s3", "snapshots"), aside); err != nil {
		t.Fatal(err)
	}
	r.onStart = func(string) {
		if len(r.started) == 2 {
			if err := os.Rename(aside, filepath.Join(r.dir, "s3", "snapshots")); err != nil {
				t.Error(err)
			}
		}
	}
	run(t, e, history.FlipSnapshot)
	did(t, r, "stop s3, disk s3, start s3, stop s3, disk s3, start s3, stop s3, disk s3, start s3, kill s3, disk s3, start s3")
}

func TestMembers(t *testing.T) {
	e, r := newRich(t)
	rec := run(t, e, history.Members)
	id := rec.Servers[0]
	did(t, r, fmt.Sprintf("add %[1]s, join %[1]s 10.0.0.50:1, leave %[1]s, remove %[1]s", id))
	if rec.Voters != 4 || rec.During[id].PID != 9 || rec.Before[id].State != "" {
		t.Errorf("recorded %+v", rec)
	}
}

// TestMembersThatGoWrong: what has failed is told, and nothing is asked for a server that could not be started.
func TestMembersThatGoWrong(t *testing.T) {
	for _, what := range []string{"add", "remove"} {
		e, r := newRich(t)
		r.failures[what] = 1
		kind, err := Named(history.Members)
		if err != nil {
			t.Fatal(err)
		}
		rec := e.Run(t.Context(), kind, false)
		if rec.Error != what+" does not work" || (what == "add") != (len(r.asked) == 1) {
			t.Errorf("%s: %s after %q", what, rec.Error, r.asked)
		}
	}
}
