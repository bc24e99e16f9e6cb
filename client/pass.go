package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
)

const (
	// copiedMemory bounds the memory of all moves together for what their copies have
	// sent: about a million keys. What is beyond is not copied, and comes with the
	// ship.
	copiedMemory = 128 << 20
	// copiedCost is what a key takes in it besides its bytes: an entry of the map and
	// one of the list, with the room that both keep for growing.
	copiedCost = 128
)

// copied is what the target has of a slice: keys and the beginning of their
// records' sums. 128 bits are enough to tell a record from a later one of the same
// key; should they ever be equal the manifests are not, and the move aborts.
type copied struct {
	at     map[string]int // of list
	list   []copiedRecord
	pass   uint32
	memory *atomic.Int64 // shared
}

type copiedRecord struct {
	key  string
	sum  [16]byte
	pass uint32 // in which it was met last
}

func newCopied(memory *atomic.Int64) *copied { return &copied{at: map[string]int{}, memory: memory} }

// has notes that a record was met, and reports whether the target has it as it is,
// or has another one of its key.
func (c *copied) has(key []byte, s recordSum) (same, other bool) {
	i, ok := c.at[string(key)]
	if !ok {
		return false, false
	}
	e := &c.list[i]
	e.pass = c.pass
	if e.sum == [16]byte(s[:16]) {
		return true, true
	}
	e.sum = [16]byte(s[:16])
	return false, true
}

// put notes a record of a key that it does not have, if there is room.
func (c *copied) put(key []byte, s recordSum) bool {
	cost := int64(len(key) + copiedCost)
	if c.memory.Add(cost) > copiedMemory {
		c.memory.Add(-cost)
		return false
	}
	k := string(key)
	c.at[k] = len(c.list)
	c.list = append(c.list, copiedRecord{k, [16]byte(s[:16]), c.pass})
	return true
}

// takeGone forgets the keys that were not met in this pass, and returns them.
func (c *copied) takeGone() (gone []string) {
	for i := 0; i < len(c.list); {
		e, last := c.list[i], len(c.list)-1
		if e.pass == c.pass {
			i++
			continue
		}
		c.list[i] = c.list[last]
		c.at[c.list[i].key] = i
		c.list = c.list[:last]
		delete(c.at, e.key)
		c.memory.Add(-int64(len(e.key) + copiedCost))
		gone = append(gone, e.key)
	}
	return gone
}

func (c *copied) free() {
	for _, e := range c.list {
		c.memory.Add(-int64(len(e.key) + copiedCost))
	}
	c.at, c.list = nil, nil
}

// passed is what a pass through the slice did.
type passed struct {
	tally   tally // of all records met
	met     count
	sent    count // with the keys that are gone
	skipped count // that found no room in copiedMemory
}

// pass goes through the slice of an open scope, and sends what the target lacks.
func (x *shipment) pass(ctx context.Context, first bool) (did passed, err error) {
	x.have.pass++
	var left func(count) count
	if first {
		left = func(total count) count { return total.plus(total.minus(did.met)) }
	}
	err = x.walk(ctx, &did, func(r Record, s recordSum) bool {
		same, other := x.have.has(r.Key, s)
		if same || !other && !x.have.put(r.Key, s) {
			if !same {
				did.skipped.add(r)
			}
			return false
		}
		return true
	}, left)
	if err == nil {
		err = x.dropGone(ctx, &did)
	}
	if err == nil && len(x.stream.batch) > 0 {
		err = x.stream.push(ctx, nil)
	}
	return did, either(x.stream.wait(), err)
}

// closing goes through the slice of a closed scope, sends what the target lacks,
// and ends the stream.
func (x *shipment) closing(ctx context.Context) (did passed, err error) {
	if len(x.stream.batch) > 0 { // of the copy; else a key might be twice in one batch
		err = x.stream.push(ctx, nil)
	} else {
		x.stream.start(ctx)
	}
	if x.have != nil {
		x.have.pass++
	}
	if err == nil {
		err = x.walk(ctx, &did, func(r Record, s recordSum) bool {
			if x.have == nil {
				return true
			}
			same, _ := x.have.has(r.Key, s)
			return !same
		}, func(total count) count { return total.minus(did.met) })
	}
	if err == nil && x.have != nil {
		err = x.dropGone(ctx, &did)
	}
	if err == nil {
		m := did.tally.manifest()
		err = x.stream.push(ctx, &m)
	}
	return did, either(x.stream.wait(), err)
}

// either is the first of two errors that is one. What the stream says goes first:
// a store may have made another error of it.
func either(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// walk has the store hand over all records, and sends those that lacks says so of.
// left is told while it goes, if it is known how much there is.
func (x *shipment) walk(ctx context.Context, did *passed, lacks func(Record, recordSum) bool, left func(total count) count) error {
	h := newHasher()
	var refused error // also if the store goes on after it
	err := x.store.Ship(ctx, x.Slice, func(r Record) (err error) {
		if refused != nil {
			return refused
		}
		defer func() { refused = err }()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.Deleted = false
		if err := either(checkRecord(r), under(x.Prefix, r)); err != nil {
			return err
		}
		s := h.of(r)
		did.tally.add(r, s)
		did.met.add(r)
		if !lacks(r, s) {
			return nil
		}
		return x.put(ctx, r, did, left)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx) // also if the store takes its end for the slice's
	}
	return either(refused, err)
}

// put sends a record, and reports now and then.
func (x *shipment) put(ctx context.Context, r Record, did *passed, left func(total count) count) error {
	at := x.stream.number
	if err := x.stream.add(ctx, r); err != nil {
		return err
	}
	did.sent.add(r)
	x.keys++
	x.bytes += sizeOf(r)
	if total := x.total.Load(); at != x.stream.number && total != nil && left != nil && time.Since(x.reported) >= reportEvery {
		x.report(left(*total))
	}
	return nil
}

// dropGone has the target drop the keys that are not in the slice any more. All of
// them go into the stream, also after an error: they are forgotten here, and a ship
// may go on with the stream.
func (x *shipment) dropGone(ctx context.Context, did *passed) (err error) {
	for _, k := range x.have.takeGone() {
		err = either(err, x.put(ctx, Record{Key: []byte(k), Deleted: true}, did, nil))
	}
	return err
}

func (x *shipment) report(left count) {
	x.tell(agent.Progressed{Move: x.Move, Keys: x.keys, Bytes: x.bytes, KeysLeft: left.keys, BytesLeft: left.bytes})
	x.reported = time.Now()
}

// estimate asks the store how much there is, beside everything else: a store may
// take its time for it. What it returns ends that, and waits for it.
func (x *shipment) estimate(ctx context.Context) func() {
	sizer, ok := x.store.(Sizer)
	if !ok {
		return func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	var asked sync.WaitGroup
	asked.Go(func() {
		keys, bytes, err := sizer.Size(ctx, x.Prefix)
		if err != nil {
			x.log.Debug("size of a slice is not known", "move", x.Move, "scope", x.Prefix.Text(), "error", err)
			return
		}
		x.total.CompareAndSwap(nil, &count{keys, bytes})
	})
	return func() {
		stop()
		asked.Wait()
	}
}
