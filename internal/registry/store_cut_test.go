package registry

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

var errCut = errors.New("the power was cut")

// cutDisk is a file until so many more syncs. What was written reaches the disk with the next of them, and of what was written
// before the one after those some sectors do.
type cutDisk struct {
	journalDisk
	left    int
	keep    func() bool
	pending []pendingWrite
}

type pendingWrite struct {
	b  []byte
	at int64
}

func (d *cutDisk) WriteAt(b []byte, at int64) (int, error) {
	d.pending = append(d.pending, pendingWrite{bytes.Clone(b), at})
	return len(b), nil
}

func (d *cutDisk) Datasync() error {
	const sector = 512
	d.left--
	for _, w := range d.pending {
		for from := 0; from < len(w.b); from += sector {
			if d.left < 0 && !d.keep() {
				continue
			}
			if _, err := d.journalDisk.WriteAt(w.b[from:min(from+sector, len(w.b))], w.at+int64(from)); err != nil {
				return err
			}
		}
	}
	if d.pending = nil; d.left < 0 {
		d.keep = func() bool { return false }
		return errCut
	}
	return nil
}

// entries are what a log holds, by index.
type entries map[uint64]*raft.Log

func (e entries) first() uint64 {
	if len(e) == 0 {
		return 0
	}
	return slices.Min(slices.Collect(maps.Keys(e)))
}

func (e entries) last() uint64 {
	if len(e) == 0 {
		return 0
	}
	return slices.Max(slices.Collect(maps.Keys(e)))
}

// is whether a store holds the very same.
func (e entries) is(t *rapid.T, s *store) bool {
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if first != e.first() || last != e.last() {
		return false
	}
	for i := first; i <= last; i++ {
		var got raft.Log
		switch err := s.GetLog(i, &got); {
		case err != nil && err != raft.ErrLogNotFound:
			t.Fatal(err)
		case (err == nil) != (e[i] != nil), err == nil && !sameLog(&got, e[i]):
			return false
		}
	}
	return true
}

// cutStore is a store whose power is cut now and then, what it has to hold, and the index that comes next.
type cutStore struct {
	t    *rapid.T
	dir  string
	s    *store
	has  entries
	next uint64
}

func (c *cutStore) open() {
	var err error
	if c.s, err = openStoreWith(c.dir, smallHalf, func(error) {}); err != nil {
		c.t.Fatal(err)
	}
}

// step changes the log. It returns what the log is to hold then, and the index that comes next.
func (c *cutStore) step() (after entries, next uint64, err error) {
	after, next = maps.Clone(c.has), c.next
	switch what := rapid.SampledFrom([]string{"append", "append", "append", "head", "tail", "all", "gap"}).Draw(c.t, "step"); what {
	case "append":
		var logs []*raft.Log
		for range rapid.SampledFrom([]int{1, 1, 1, 2, 60}).Draw(c.t, "n") {
			logs = append(logs, drawLog(c.t, next))
			after[next] = logs[len(logs)-1]
			next++
		}
		return after, next, c.s.StoreLogs(logs)
	case "gap": // a snapshot of the leader brought this server further, and entries from before it may stay
		return after, next + 10, nil
	default:
		from, to := after.first(), after.last()
		if to == 0 {
			return after, next, nil
		}
		switch what {
		case "head":
			to = rapid.Uint64Range(from, to).Draw(c.t, "to")
		case "tail":
			from = rapid.Uint64Range(max(from, to-min(to, 3)), to).Draw(c.t, "from")
			next = from
		}
		maps.DeleteFunc(after, func(i uint64, _ *raft.Log) bool { return i >= from && i <= to })
		return after, next, c.s.DeleteRange(from, to)
	}
}

// Whenever the power is cut, and whatever sectors of what was being written are on the disk, the next start finds the log as it was before
// the change or after it. Where entries were being moved, bolt has them or not.
func TestStoreAfterThePowerWasCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "cut")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		c := &cutStore{t: t, dir: dir, has: entries{}, next: 1}
		c.open()
		if err := c.s.SetUint64([]byte(raftTermKey), math.MaxUint64); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			often := rng.Float64()
			c.live(&cutDisk{journalDisk: c.s.log.journal.file, left: rng.IntN(30), keep: func() bool { return rng.Float64() < often }}, rng.IntN(2) == 0)
		}
		if err := c.s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// live lasts until the power is cut, at the latest after some changes, and ends with the next start.
func (c *cutStore) live(disk *cutDisk, unmoved bool) {
	c.s.log.journal.file = disk
	path := filepath.Join(c.dir, storeFile)
	for range 40 {
		bolt, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		moved := c.s.log.moved
		after, next, err := c.step()
		if err != nil && !errors.Is(err, errCut) {
			c.t.Fatal(err)
		}
		if <-c.s.log.moved; err != nil {
			if c.die(func() error { return nil }); after.is(c.t, c.s) {
				c.has, c.next = after, next
			}
			break
		}
		c.has, c.next = after, next
		c.compare()
		if unmoved && c.s.log.moved != moved { // the power is cut before bolt has what was being moved
			c.die(func() error { return os.WriteFile(path, bolt, 0o600) })
			break
		}
	}
	c.compare()
	c.die(func() error { return nil })
	c.compare()
}

func (c *cutStore) compare() {
	if !c.has.is(c.t, c.s) {
		c.t.Fatalf("the log is not that of entries %v", slices.Sorted(maps.Keys(c.has)))
	}
}

// die ends the process, changes what is on the disk, and opens the store again.
func (c *cutStore) die(change func() error) {
	die(c.t, c.s)
	if err := change(); err != nil {
		c.t.Fatal(err)
	}
	c.open()
}
