package client

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
)

const (
	// copiedMemory bounds the memory of all moves together for what their copies have
	// sent: about a million keys. What is beyond is not copied, and comes with the
	// ship.
	copiedMemory = 192 << 20
	// copiedCost is what a key takes in it besides its bytes: an entry of the map and
	// one of the list, with the room that both keep for growing.
	copiedCost = 160
)

// copied is what the target has of a slice: keys and their records' sums, whole, as
// the sum of all is made of them.
type copied struct {
	at     map[string]int // of list
	list   []copiedRecord
	sum    tally // of all records
	part   bool  // some found no room
	pass   uint32
	memory *atomic.Int64 // shared
}

type copiedRecord struct {
	key string
	former
	pass uint32 // in which it was met last
}

func newCopied(memory *atomic.Int64) *copied { return &copied{at: map[string]int{}, memory: memory} }

// has notes that a record was met, and reports whether the target has it as it is,
// or else what it had of its key, nil if nothing.
func (c *copied) has(key []byte, is former) (same bool, was *former) {
	i, ok := c.at[string(key)]
	if !ok {
		return false, nil
	}
	e := &c.list[i]
	e.pass = c.pass
	if e.former == is {
		return true, nil
	}
	f := e.former
	c.sum.remove(f)
	c.sum.put(is)
	e.former = is
	return false, &f
}

// meet notes that a key was met, and reports whether the target has it.
func (c *copied) meet(key []byte) bool {
	i, ok := c.at[string(key)]
	if ok {
		c.list[i].pass = c.pass
	}
	return ok
}

// put notes a record of a key that it does not have, if there is room.
func (c *copied) put(key []byte, is former) bool {
	cost := int64(len(key) + copiedCost)
	if c.memory.Add(cost) > copiedMemory {
		c.memory.Add(-cost)
		c.part = true
		return false
	}
	k := string(key)
	c.at[k] = len(c.list)
	c.list = append(c.list, copiedRecord{k, is, c.pass})
	c.sum.put(is)
	return true
}

// drop forgets a key, and returns what the target had of it; nil if nothing.
func (c *copied) drop(key []byte) *former {
	i, ok := c.at[string(key)]
	if !ok {
		return nil
	}
	f := c.list[i].former
	c.remove(i)
	return &f
}

func (c *copied) remove(i int) {
	e, last := c.list[i], len(c.list)-1
	c.list[i] = c.list[last]
	c.at[c.list[i].key] = i
	c.list = c.list[:last]
	delete(c.at, e.key)
	c.sum.remove(e.former)
	c.memory.Add(-int64(len(e.key) + copiedCost))
}

// takeGone forgets the keys that were not met in this pass, and returns them.
func (c *copied) takeGone() (gone []copiedRecord) {
	for i := 0; i < len(c.list); {
		e := c.list[i]
		if e.pass == c.pass {
			i++
			continue
		}
		c.remove(i)
		gone = append(gone, e)
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

// lacks says of a record whether it is to be sent while the scope is open, and notes
// that it is.
func (x *shipment) lacks(did *passed) func(*Record, recordSum) bool {
	return func(r *Record, s recordSum) bool {
		is := former{s, sizeOf(*r)}
		same, was := x.have.has(r.Key, is)
		if same || was == nil && !x.have.put(r.Key, is) {
			if !same {
				did.skipped.add(*r)
			}
			return false
		}
		r.was = was
		return true
	}
}

// all hands over all records.
func (x *shipment) all(ctx context.Context, send func(Record) error) error {
	return x.store.Ship(ctx, x.Slice, send)
}

type reading func(ctx context.Context, send func(Record) error) error

// pass goes through the slice of an open scope, and sends what the target lacks.
func (x *shipment) pass(ctx context.Context, first bool) (did passed, err error) {
	if err := x.offer(ctx); err != nil {
		return did, err
	}
	x.have.pass++
	var left func(count) count
	if first {
		left = func(total count) count { return total.plus(total.minus(did.met)) }
	}
	read := reading(x.all)
	if x.feed != nil {
		read = x.feed.Ship
	}
	err = x.walk(ctx, read, &did, x.lacks(&did), left)
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
	if x.tracked() {
		if did, err = x.closingTracked(ctx); !errors.Is(err, ErrTrackingLost) {
			return did, err
		}
		x.log.Warn("the closed slice is read as a whole", "move", x.Move, "scope", x.Prefix.Text(), "error", err)
		did = passed{}
	}
	if err := x.offer(ctx); err != nil {
		return did, err
	}
	if err = x.flush(ctx); err == nil && x.have != nil {
		x.have.pass++
	}
	if err == nil {
		err = x.walk(ctx, x.all, &did, func(r *Record, s recordSum) (lacks bool) {
			if x.have == nil {
				return true
			}
			same, was := x.have.has(r.Key, former{s, sizeOf(*r)})
			r.was = was
			return !same
		}, func(total count) count { return total.minus(did.met) })
	}
	if err == nil && x.have != nil {
		err = x.dropGone(ctx, &did)
	}
	if err == nil {
		err = x.last(ctx, &did)
	}
	return did, either(x.stream.wait(), err)
}

// offer has the target say whether it can take the slice, before anything else of a
// stream.
func (x *shipment) offer(ctx context.Context) error {
	o, ok := x.store.(Offerer)
	if !ok || x.stream.number > 0 || len(x.stream.batch) > 0 {
		return nil
	}
	offered, err := o.Offer(ctx, x.Slice)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	x.stream.queue = append(x.stream.queue, &Batch{Slice: x.Slice, Stream: x.stream.id, Offer: offered.Text})
	x.total.CompareAndSwap(nil, &count{offered.Records, offered.Bytes})
	x.stream.number++
	x.stream.start(ctx)
	return x.stream.wait()
}

// flush begins to send what a pass has left: a key might be twice in one batch else.
func (x *shipment) flush(ctx context.Context) error {
	if len(x.stream.batch) > 0 {
		return x.stream.push(ctx, nil)
	}
	x.stream.start(ctx)
	return nil
}

// last sends the last batch.
func (x *shipment) last(ctx context.Context, did *passed) error {
	m := did.tally.manifest()
	return x.stream.push(ctx, &m)
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
func (x *shipment) walk(ctx context.Context, read reading, did *passed, lacks func(*Record, recordSum) bool, left func(total count) count) error {
	h := newHasher()
	var refused error // also if the store goes on after it
	err := read(ctx, func(r Record) (err error) {
		if refused != nil {
			return refused
		}
		defer func() { refused = err }()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.Deleted, r.was = false, nil
		if err := either(checkRecord(r), under(x.Prefix, r)); err != nil {
			return err
		}
		s := h.of(r)
		did.tally.add(r, s)
		did.met.add(r)
		if !lacks(&r, s) {
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
	if !x.tracks {
		r.was = nil // an older target would not know what it is told
	}
	if err := x.stream.add(ctx, r); err != nil {
		return err
	}
	did.sent.add(r)
	x.keys.Add(1)
	x.bytes.Add(sizeOf(r))
	if total := x.total.Load(); at != x.stream.number && total != nil && left != nil && time.Since(x.reported) >= reportEvery {
		x.report(left(*total))
	}
	return nil
}

// dropGone has the target drop the keys that are not in the slice any more. All of
// them go into the stream, also after an error: they are forgotten here, and a ship
// may go on with the stream.
func (x *shipment) dropGone(ctx context.Context, did *passed) (err error) {
	for _, e := range x.have.takeGone() {
		err = either(err, x.put(ctx, Record{Key: []byte(e.key), Deleted: true, was: &e.former}, did, nil))
	}
	return err
}

func (x *shipment) report(left count) {
	x.left.Store(&left)
	x.tell(agent.Progressed{Move: x.Move, Keys: x.keys.Load(), Bytes: x.bytes.Load(), KeysLeft: left.keys, BytesLeft: left.bytes, Early: x.early()})
	x.reported = time.Now()
}

// early reports whether closing the scope now would keep it closed for longer than a
// little later: as long as not all that was there is known to be sent, it is read, or
// all its keys are compared. A telling that was lost once may be lost for ever, and
// is not waited for.
func (x *shipment) early() bool { return x.feed != nil && x.compared == 0 && !x.missed }

// estimate asks the store how much there is, beside everything else: a store may
// take its time for it. What it returns ends that, and waits for it.
func (x *shipment) estimate(ctx context.Context) func() {
	sizer, ok := x.store.(Sizer)
	if _, offers := x.store.(Offerer); !ok || offers {
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
