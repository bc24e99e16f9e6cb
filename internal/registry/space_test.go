package registry

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// fakeDisk has as much space as a test says.
type fakeDisk struct {
	mu   sync.Mutex
	free uint64
	err  error
}

// Free implements spaceOf.
func (d *fakeDisk) Free(string) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.free, d.err
}

func (d *fakeDisk) set(free uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free, d.err = free, err
}

// disks gives every server of a network its own.
func disks(ids ...string) (map[string]*fakeDisk, func(*Config)) {
	all := map[string]*fakeDisk{}
	for _, id := range ids {
		all[id] = &fakeDisk{free: 1 << 40}
	}
	return all, func(c *Config) { c.space = all[c.ID] }
}

// Commands are refused before the disk is full; reads, renewals and what ends something go on; and all does when there is
// space again.
func TestNoSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, edit := disks("s1", "s2", "s3")
		n := newNetwork(t, edit)
		n.ready()
		l := n.leader("")
		mustPropose(t, l, setNode(1))
		d[l.id].set(minFree-1, nil)
		n.until("it to be seen", func() bool { return l.reg.Storage().Low })
		for _, s := range n.servers {
			_, err := s.reg.Propose(t.Context(), setNode(2))
			wantCode(t, err, api.Limit)
			if !strings.Contains(err.Error(), `server "`+l.id+`"`) || !strings.Contains(err.Error(), "63 MiB") {
				t.Errorf("%s: %v", s.id, err)
			}
			if _, err := s.reg.Read(t.Context(), api.ReadOptions{Consistency: "linearizable"}); err != nil {
				t.Errorf("%s reads: %v", s.id, err)
			}
			if err := s.reg.Ready(); err != nil {
				t.Errorf("%s: %v", s.id, err)
			}
			_, err = s.reg.Propose(t.Context(), fsm.Envelope{Actor: "test", Command: &fsm.Abort{Move: "m"}})
			wantCode(t, err, api.NotFound) // it came as far as the state
			_, err = s.reg.Propose(t.Context(), fsm.Envelope{Actor: "test", Command: &fsm.DropBackup{Id: "u"}})
			wantCode(t, err, api.WrongPhase) // and so did this
		}
		status, err := l.reg.Status(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range status.Members {
			if m.DiskLow != (m.ID == l.id) || m.DiskFree == 0 {
				t.Errorf("member %+v", m)
			}
		}
		d[l.id].set(minFree, nil) // not for every few bytes
		<-time.After(2 * spaceEvery)
		if !l.reg.Storage().Low {
			t.Error("it went at the limit itself")
		}
		d[l.id].set(minFree+minFree/freeAgain, nil)
		n.until("there to be space", func() bool { return !l.reg.Storage().Low })
		mustPropose(t, n.others(l.id)[0], setNode(3))
	})
}

// A follower with a full disk will stop, and is none of the leader's business; a second one would be the end of all writes.
func TestNoSpaceOnTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, edit := disks("s1", "s2", "s3")
		n := newNetwork(t, edit)
		n.ready()
		l := n.leader("")
		a, b := n.others(l.id)[0], n.others(l.id)[1]
		d[a.id].set(0, nil)
		<-time.After(2 * othersEvery)
		mustPropose(t, l, setNode(1))
		d[b.id].set(0, nil)
		<-time.After(2 * othersEvery)
		_, err := a.reg.Propose(t.Context(), setNode(2))
		wantCode(t, err, api.Limit)
		d[a.id].set(1<<40, nil)
		<-time.After(2 * othersEvery)
		mustPropose(t, l, setNode(3))
	})
}

func TestSpaceThatIsNotKnown(t *testing.T) {
	broken := errors.New("no such system call")
	var s space
	if !s.measured(0, minFree, broken) || s.measured(0, minFree, broken) || s.low {
		t.Errorf("an unknown space counts as %+v", &s.low)
	}
	if !s.measured(1, minFree, nil) || !s.low {
		t.Error("too little space is no news")
	}
	if s.measured(0, minFree, broken); !s.low {
		t.Error("it was low, and is unknown now")
	}
	if _, err := (statfs{}).Free(t.TempDir()); err != nil {
		t.Error(err)
	}
	if _, err := (statfs{}).Free("/nowhere"); err == nil {
		t.Error("there is space where there is no directory")
	}
}

// The next snapshot needs its space beyond the limit.
func TestSpaceForSnapshots(t *testing.T) {
	dir := t.TempDir()
	populated(t, dir, 60, []uint64{50}, 0)
	cfg := aloneConfig(t, dir)
	s, _ := mustOpen(t, dir)
	defer mustClose(t, s)
	snaps, _, err := openDir(cfg, s, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	list, err := snaps.List()
	if err != nil {
		t.Fatal(err)
	}
	cfg.space = &fakeDisk{free: minFree}
	machine := fsm.New(func(err error) { t.Error(err) })
	r := &Registry{cfg: cfg, snaps: snaps, fsm: machine, log: cfg.Logger, dog: newWatchdog(), checks: newChecker(nil)}
	limit := func(size int64) {
		t.Helper()
		r.measureSpace()
		if s := r.Storage(); size == 0 || !s.Low || s.Limit != minFree+freeSnapshots*uint64(size) {
			t.Errorf("%+v with a snapshot of %d bytes", s, size)
		}
	}
	limit(list[0].Size)
	l := &raft.Log{Index: 70, Term: 3, Type: raft.LogCommand, Data: sampleEntry(t, 0)}
	machine.Apply(l)
	mustSnapshot(t, snaps, machine, cfg, l)
	snaps.started()
	if list, err = snaps.List(); err != nil || list[0].Index != 70 {
		t.Fatalf("%v, %v", list, err)
	}
	limit(list[0].Size)
	t.Log("what came into the state since, and a backup on its way in, will be in the next one")
	index := uint64(70)
	apply := func(c fsm.Command) {
		t.Helper()
		e, err := fsm.Envelope{Command: c}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		data, err := fsm.EncodeEntry(1, [][]byte{e})
		if err != nil {
			t.Fatal(err)
		}
		index++
		machine.Apply(&raft.Log{Index: index, Term: 3, Type: raft.LogCommand, Data: data})
	}
	apply(&fsm.SetNode{Id: "a", Addr: "a:1"})
	many := &fsm.Batch{}
	for i := range int(list[0].Size) {
		many.Scopes = append(many.Scopes, &fsm.Declare{Prefix: fmt.Appendf(nil, "p%d:", i), Writer: "a"})
	}
	apply(many)
	limit(scopeInSnapshot * list[0].Size)
	apply(&fsm.StageBackup{Id: "u", Data: make([]byte, 1000)})
	limit(scopeInSnapshot*list[0].Size + 1000/freeSnapshots)
}
