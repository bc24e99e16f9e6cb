package client

import (
	"context"
	"fmt"
	"time"
)

// cheapCompare is how long a comparison of all keys may have taken to be made once
// more while the scope is closed: beside the rest of a hand-off it does not count.
const cheapCompare = 25 * time.Millisecond

// track has the store tell what changes, if it can.
func (x *shipment) track(ctx context.Context) {
	t, can := x.store.(Tracker)
	if !can || x.feed != nil || x.have.part {
		return // of what is not in have nobody could say what it replaces
	}
	feed, err := t.Track(ctx, x.Slice)
	if err != nil {
		if ctx.Err() == nil {
			x.log.Warn("what changes is not told, and the slice is read as a whole in each pass", "move", x.Move, "scope", x.Prefix.Text(), "error", err)
		}
		return
	}
	x.feed, x.fed, x.compared = feed, false, 0
}

func (x *shipment) untrack() {
	if x.feed != nil {
		x.feed.Close()
	}
	x.feed, x.fed = nil, false
}

// tracked reports whether what has changed is all that the target may lack.
func (x *shipment) tracked() bool { return x.feed != nil && x.fed && !x.have.part }

// openPass sends what the target lacks of the slice of an open scope.
func (x *shipment) openPass(ctx context.Context, first bool) (did passed, err error) {
	if x.tracked() {
		return x.changedPass(ctx)
	}
	did, err = x.pass(ctx, first)
	if x.fed = err == nil && x.feed != nil; x.fed && x.have.part {
		x.untrack()
	}
	return did, err
}

// changedPass is pass, of what has changed only. One of them compares all keys: what
// the tracking has missed is found while there is time.
func (x *shipment) changedPass(ctx context.Context) (did passed, err error) {
	err = x.flush(ctx)
	if err == nil {
		err = x.walkChanged(ctx, &did)
	}
	if err == nil && x.compared == 0 {
		_, err = x.compare(ctx)
	}
	if err == nil && len(x.stream.batch) > 0 {
		err = x.stream.push(ctx, nil)
	}
	did.met = count{x.have.sum.keys, x.have.sum.bytes}
	return did, either(x.stream.wait(), err)
}

// closingTracked is closing, of what has changed only.
func (x *shipment) closingTracked(ctx context.Context) (did passed, err error) {
	err = x.flush(ctx)
	if err == nil {
		err = x.walkChanged(ctx, &did)
	}
	if err == nil && x.compared <= cheapCompare { // 0: it was never done
		err = x.closingCompare(ctx, &did)
	}
	if err == nil && x.have.part {
		err = fmt.Errorf("%w: there is no memory to keep what was sent", ErrTrackingLost)
	}
	if err == nil {
		did.tally = x.have.sum
		err = x.last(ctx, &did)
	}
	return did, either(x.stream.wait(), err)
}

// closingCompare compares the keys of a closed slice. What is not as it was told can
// only have expired.
func (x *shipment) closingCompare(ctx context.Context, did *passed) error {
	odd, err := x.compare(ctx)
	if err != nil || odd == 0 {
		return err
	}
	x.log.Info("keys differ from what was told, and are looked at", "move", x.Move, "scope", x.Prefix.Text(), "keys", odd)
	if err := x.flush(ctx); err != nil {
		return err
	}
	return x.walkChanged(ctx, did)
}

// walkChanged has the store hand over what has changed, and sends those records that
// the target lacks.
func (x *shipment) walkChanged(ctx context.Context, did *passed) error {
	h := newHasher()
	lacks := x.lacks(did)
	var refused error // also if the store goes on after it
	err := x.feed.Changed(ctx, func(r Record) (err error) {
		if refused != nil {
			return refused
		}
		defer func() { refused = err }()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.was = nil
		if r.Deleted {
			was := x.have.drop(r.Key)
			if was == nil {
				return nil
			}
			return x.put(ctx, Record{Key: r.Key, Deleted: true, was: was}, did, nil)
		}
		if err := either(checkRecord(r), under(x.Prefix, r)); err != nil {
			return err
		}
		if !lacks(&r, h.of(r)) {
			return nil
		}
		return x.put(ctx, r, did, nil)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return either(refused, err)
}

// compare has those keys looked at again that the store has and the target has not,
// or the other way round, and says how many they are. While the scope is written
// these are also what changes meanwhile.
func (x *shipment) compare(ctx context.Context) (odd int, err error) {
	began := time.Now()
	x.have.pass++
	var look []string
	err = x.feed.Keys(ctx, func(key []byte) error {
		if !x.have.meet(key) {
			look = append(look, string(key))
		}
		return ctx.Err()
	})
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil {
		return 0, err
	}
	for _, e := range x.have.list {
		if e.pass != x.have.pass {
			look = append(look, e.key)
		}
	}
	x.feed.Look(look)
	x.compared = max(time.Since(began), 1)
	return len(look), nil
}
