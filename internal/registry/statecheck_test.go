package registry

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// fatalsOf collects what servers raise, by id.
type fatalsOf struct {
	mu   sync.Mutex
	errs map[string]error
}

func (f *fatalsOf) of(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errs[id]
}

func (f *fatalsOf) edit(c *Config) {
	id := c.ID
	c.checkEvery = 20
	c.OnFatal = func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.errs[id] = err
	}
}

// spoil makes a server's state another one than the log says.
func (s *node) spoil(t *testing.T) {
	t.Helper()
	e, err := fsm.Envelope{Command: &fsm.SetNode{Id: "odd", Addr: "odd:1"}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	data, err := fsm.EncodeEntry(1, [][]byte{e})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	s.reg.fsm.Apply(&raft.Log{Index: s.reg.State().Index(), Term: 1, Type: raft.LogCommand, Data: data})
}

func TestStateThatDiffersStopsThatServerAlone(t *testing.T) {
	for name, leads := range map[string]bool{"follower": false, "leader": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { differ(t, leads) })
		})
	}
}

func differ(t *testing.T, leads bool) {
	f := &fatalsOf{errs: map[string]error{}}
	n := newNetwork(t, f.edit)
	n.ready()
	l := n.leader("")
	odd := l
	if !leads {
		odd = n.others(l.id)[1]
	}
	agreed := func(s *node, beyond uint64) bool { return s.reg.checks.lastAgreed() > beyond }
	i := 0
	propose := func() {
		i++
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := n.leader(odd.id).reg.Propose(ctx, setNode(i)); err != nil {
			t.Logf("proposing: %v", err)
		}
	}
	n.until("all to agree twice", func() bool {
		mustPropose(t, l, setNode(1))
		for _, s := range n.servers {
			if !agreed(s, 40) {
				return false
			}
		}
		return true
	})
	odd.spoil(t)
	n.until("the one that differs to stop", func() bool {
		if i++; i%2 == 0 {
			_, _ = l.reg.Propose(t.Context(), setNode(i)) // refused by a leader that has stopped
		}
		return f.of(odd.id) != nil
	})
	err := f.of(odd.id)
	var damaged *CorruptError
	if !errors.As(err, &damaged) || damaged.Index == 0 {
		t.Fatalf("raised %v", err)
	}
	hashes := n.others(odd.id)[0].reg.checks
	for _, part := range []string{odd.id, hashes.hashAt(damaged.Index), odd.reg.checks.hashAt(damaged.Index), "cluster remove"} {
		if part == "" || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
	_, readErr := odd.reg.Read(t.Context(), api.ReadOptions{})
	wantCode(t, readErr, api.Unavailable)
	wantCode(t, odd.reg.Ready(), api.Unavailable)
	_, readErr = odd.reg.Read(t.Context(), api.ReadOptions{Consistency: "linearizable"})
	wantCode(t, readErr, api.Unavailable)
	n.isolate(odd.id) // its process ends
	n.leader(odd.id)
	at := n.others(odd.id)[0].reg.checks.lastAgreed()
	n.until("the others to go on", func() bool {
		propose()
		return agreed(n.others(odd.id)[0], at) && agreed(n.others(odd.id)[1], at)
	})
	for _, s := range n.others(odd.id) {
		if f.of(s.id) != nil {
			t.Errorf("%s stopped too: %v", s.id, f.of(s.id))
		}
	}
}

// Two that differ, and no third: nobody can tell which is right, and nobody stops.
func TestStatesThatDifferWithoutAMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fatalsOf{errs: map[string]error{}}
		n := newNetwork(t, f.edit)
		n.ready()
		l := n.leader("")
		mustPropose(t, l, setNode(1))
		n.until("a first mark, which every server has to be there for", func() bool {
			mustPropose(t, l, setNode(1))
			return l.reg.State().Checked().Index > 0
		})
		n.isolate(n.others(l.id)[0].id)
		odd := n.others(l.id)[1]
		n.until("it to have all", func() bool { return odd.reg.State().Index() == l.reg.State().Index() })
		odd.spoil(t)
		marks := l.reg.State().Checked().Index
		n.until("a mark that nothing is said of", func() bool {
			mustPropose(t, l, setNode(2))
			c := l.reg.State().Checked()
			return c.Index > marks+20 && c.Of == 0
		})
		if len(f.errs) != 0 {
			t.Errorf("stopped: %v", f.errs)
		}
	})
}

// What is replayed is compared too, and a server that was condemned does not start.
func TestCondemnedDirectory(t *testing.T) {
	dir := t.TempDir()
	populated(t, dir, 20, nil, 0)
	cfg := aloneConfig(t, dir)
	d, err := openDataDir(dir, cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	a := newAlarm(nil)
	r := &Registry{cfg: cfg, dir: d, alarm: a}
	c := newChecker(r.condemn)
	s := fsm.State{}
	apply := func(index uint64, cmd fsm.Command) {
		t.Helper()
		e, err := fsm.Envelope{Command: cmd}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		data, err := fsm.EncodeEntry(1, [][]byte{e})
		if err != nil {
			t.Fatal(err)
		}
		if s, _, _, err = s.ApplyEntry(index, 1, data); err != nil {
			t.Fatal(err)
		}
	}
	apply(2, &fsm.CheckState{})
	c.check(s)
	apply(3, &fsm.CheckState{Of: 2, Hash: s.Hash()})
	c.check(s)
	if c.lastAgreed() != 2 || a.stopped("s1") != nil {
		t.Fatalf("agreed up to %d, %v", c.lastAgreed(), a.stopped("s1"))
	}
	apply(4, &fsm.CheckState{Of: 3, Hash: strings.Repeat("0", fsm.HashLen)})
	c.check(s)
	if err := a.stopped("s1"); err == nil || !strings.Contains(err.Error(), "log index 3") {
		t.Fatalf("stopped: %v", err)
	}
	_, err = rebuild(dir, cfg)
	var damaged *CorruptError
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), strings.Repeat("0", fsm.HashLen)) {
		t.Errorf("started with %v", err)
	}
}

// While entries are replayed marks come faster than they are hashed.
func TestUncheckedStatesAreBounded(t *testing.T) {
	c := newChecker(func(uint64, string, string) { t.Error("differs") })
	for range maxUnchecked + 3 {
		c.marked(fsm.State{})
	}
	if len(c.waiting) != maxUnchecked {
		t.Errorf("%d states wait", len(c.waiting))
	}
	for range checksKept + 3 {
		c.check(fsm.State{})
	}
	if len(c.hashes) != checksKept {
		t.Errorf("%d hashes are kept", len(c.hashes))
	}
}
