package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

var (
	_ client.Store = (*Disk)(nil)
	_ client.Sizer = (*Disk)(nil)
)

// recordOf is an entry as a move ships it. It keeps no part of key and b.
func recordOf(key, b []byte) (client.Record, error) {
	if len(b) < entryHead {
		return client.Record{}, fmt.Errorf("key %q: an entry of %d bytes is none of this store's", scope.BytesText(string(key)), len(b))
	}
	return client.Record{Key: bytes.Clone(key), Expires: int64(binary.BigEndian.Uint64(b)), Value: bytes.Clone(b[8:])}, nil
}

// entryOf reverses recordOf.
func entryOf(r client.Record) []byte {
	b := make([]byte, 0, 8+len(r.Value))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Expires))
	return append(b, r.Value...)
}

// place finds a bucket in a transaction; nil if it is not there.
type place func(tx *bbolt.Tx) *bbolt.Bucket

// recordsOf is the place of what is staged for a move.
func recordsOf(move string) place {
	return func(tx *bbolt.Tx) *bbolt.Bucket {
		if b := staging(tx).Bucket([]byte(move)); b != nil {
			return b.Bucket([]byte(bucketRecords))
		}
		return nil
	}
}

// reading goes through the keys under a prefix.
type reading struct {
	cursor     *bbolt.Cursor
	prefix     scope.Prefix
	key, value []byte // nil at the end
}

// read begins at the first key under p that comes after a key, unless that is nil.
func read(b *bbolt.Bucket, p scope.Prefix, after []byte) *reading {
	r := &reading{prefix: p}
	if b == nil {
		return r
	}
	r.cursor = b.Cursor()
	if after == nil {
		r.set(r.cursor.Seek([]byte(p)))
		return r
	}
	if k, v := r.cursor.Seek(after); bytes.Equal(k, after) {
		r.next()
	} else {
		r.set(k, v)
	}
	return r
}

func (r *reading) next() { r.set(r.cursor.Next()) }

func (r *reading) set(k, v []byte) {
	if k == nil || !r.prefix.Matches(k) {
		k, v = nil, nil
	}
	r.key, r.value = k, v
}

// scan shows visit every key under p with its entry, which it must not keep, in the order of keys. After each page it
// calls flush, with no transaction open. What is written meanwhile is seen or not; each key is seen once.
func (d *Disk) scan(ctx context.Context, at place, p scope.Prefix, visit func(key, entry []byte) error, flush func() error) error {
	var after []byte
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := d.db.View(func(tx *bbolt.Tx) error {
			left := d.page
			r := read(at(tx), p, after)
			for ; r.key != nil && !left.reached(); r.next() {
				if err := visit(r.key, r.value); err != nil {
					return err
				}
				left.take(len(r.key) + len(r.value))
				after = append(after[:0], r.key...)
			}
			more = r.key != nil
			return nil
		})
		if err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

// records hands every record under p to fn, with no transaction open: fn may take as long as a slow network does.
func (d *Disk) records(ctx context.Context, at place, p scope.Prefix, fn func(client.Record) error) error {
	var page []client.Record
	collect := func(key, entry []byte) error {
		r, err := recordOf(key, entry)
		page = append(page, r)
		return err
	}
	return d.scan(ctx, at, p, collect, func() error {
		for _, r := range page {
			if err := fn(r); err != nil {
				return err
			}
		}
		page = page[:0]
		return nil
	})
}

// Ship implements [client.Store]. Entries that have expired are shipped too, with their expiry: what a slice holds
// must not depend on the clock of who looks.
func (d *Disk) Ship(ctx context.Context, s client.Slice, send func(client.Record) error) error {
	return d.records(ctx, values, s.Prefix, send)
}

// Stage implements [client.Store]. Each batch is one transaction, and durable: bbolt could leave out the fsyncs for the
// whole file only, and with them those of the puts of other scopes. Two in a batch are little beside its bytes.
func (d *Disk) Stage(ctx context.Context, s client.Slice, batch []client.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries := make([]entry, 0, len(batch))
	for _, r := range batch {
		if err := stageable(s, r); err != nil {
			return err
		}
		e := entry{key: r.Key}
		if !r.Deleted {
			e.bytes = entryOf(r)
		}
		entries = append(entries, e)
	}
	err := d.update(func(tx *bbolt.Tx) error {
		b, err := stagingOf(tx, s)
		if err != nil {
			return err
		}
		return apply(b.Bucket([]byte(bucketRecords)), entries)
	})
	if err == nil {
		d.note(s)
	}
	return err
}

// stageable refuses what Promote could not, or must not, put among the values.
func stageable(s client.Slice, r client.Record) error {
	switch err := Check(r.Key); {
	case err != nil:
		return err
	case !s.Prefix.Matches(r.Key):
		return fmt.Errorf("move %s is of %q and brought the key %q", s.Move, s.Prefix, scope.BytesText(string(r.Key)))
	case !r.Deleted && 8+len(r.Value) < entryHead:
		return fmt.Errorf("key %q: a value of %d bytes is none of this store's; does the other node run the same program?",
			scope.BytesText(string(r.Key)), len(r.Value))
	}
	return nil
}

// stagingOf is the bucket of a slice, which it makes if it is not there.
func stagingOf(tx *bbolt.Tx, s client.Slice) (*bbolt.Bucket, error) {
	if b := staging(tx).Bucket([]byte(s.Move)); b != nil {
		if p := b.Get([]byte(keyPrefix)); p == nil || string(p) != string(s.Prefix) {
			return nil, fmt.Errorf("what is staged for move %s is being discarded, or of another prefix than %q", s.Move, s.Prefix)
		}
		return b, nil
	}
	b, err := staging(tx).CreateBucket([]byte(s.Move))
	if err != nil {
		return nil, err
	}
	if err := b.Put([]byte(keyPrefix), s.Prefix.Bytes()); err != nil {
		return nil, err
	}
	_, err = b.CreateBucket([]byte(bucketRecords))
	return b, err
}

// note remembers that something is staged.
func (d *Disk) note(s client.Slice) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.staged[s.Move]; !known {
		d.staged[s.Move] = slice{prefix: s.Prefix}
	}
}

// Awaits reports whether a slice is staged, and not yet promoted, that key belongs to: what is stored under the key
// is older than that, or half replaced.
func (d *Disk) Awaits(key []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.staged {
		if !s.promoted && s.prefix.Matches(key) {
			return true
		}
	}
	return false
}

// Verify implements [client.Store]. Stage has made the records durable; a slice without any is made to be one, so that
// Promote can tell it from a slice that is not there.
func (d *Disk) Verify(ctx context.Context, s client.Slice, each func(client.Record) error) error {
	if err := d.Stage(ctx, s, nil); err != nil {
		return err
	}
	return d.records(ctx, recordsOf(s.Move), s.Prefix, each)
}

// Promote implements [client.Store]. It goes through the slice and the values side by side, page by page, and makes the
// values equal: what is equal already, as after a crash in the middle, is left alone. Until the last transaction, which
// notes that it is done, Awaits keeps the readers out, in a later process too.
func (d *Disk) Promote(ctx context.Context, s client.Slice) error {
	var after []byte
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var changes []entry
		err := d.db.View(func(tx *bbolt.Tx) (err error) {
			b := staging(tx).Bucket([]byte(s.Move))
			if b == nil || b.Get([]byte(keyPrefix)) == nil {
				return fmt.Errorf("nothing is staged for move %s; the values under %q stay as they are", s.Move, s.Prefix)
			}
			changes, after, more = difference(read(values(tx), s.Prefix, after), read(b.Bucket([]byte(bucketRecords)), s.Prefix, after), d.page, after)
			return nil
		})
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			continue
		}
		if err := d.update(func(tx *bbolt.Tx) error { return apply(values(tx), changes) }); err != nil {
			return err
		}
	}
	err := d.update(func(tx *bbolt.Tx) error {
		return staging(tx).Bucket([]byte(s.Move)).Put([]byte(keyPromoted), []byte{1})
	})
	if err == nil {
		d.mu.Lock()
		d.staged[s.Move] = slice{prefix: s.Prefix, promoted: true}
		d.mu.Unlock()
	}
	return err
}

// difference returns what makes the next page of have equal to want, the last key it looked at, and whether any is left.
func difference(have, want *reading, left limit, last []byte) (changes []entry, after []byte, more bool) {
	for (have.key != nil || want.key != nil) && !left.reached() {
		order := bytes.Compare(have.key, want.key)
		if have.key == nil {
			order = 1
		} else if want.key == nil {
			order = -1
		}
		switch {
		case order < 0:
			changes = append(changes, entry{key: bytes.Clone(have.key)})
		case order > 0 || !bytes.Equal(have.value, want.value):
			changes = append(changes, entry{key: bytes.Clone(want.key), bytes: bytes.Clone(want.value)})
		}
		if order <= 0 {
			last = have.key
			left.take(len(have.key) + len(have.value))
			have.next()
		}
		if order >= 0 {
			last = want.key
			left.take(len(want.key) + len(want.value))
			want.next()
		}
	}
	return changes, bytes.Clone(last), have.key != nil || want.key != nil
}

// Discard implements [client.Store].
func (d *Disk) Discard(ctx context.Context, move string) error {
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := d.update(func(tx *bbolt.Tx) error {
			b := staging(tx).Bucket([]byte(move))
			if b == nil {
				more = false
				return nil
			}
			// Gone with the first transaction: half a slice must never be promoted.
			if err := b.Delete([]byte(keyPrefix)); err != nil {
				return err
			}
			left, err := deleteSome(b.Bucket([]byte(bucketRecords)), "", d.page)
			if err != nil || left {
				return err
			}
			more = false
			return staging(tx).DeleteBucket([]byte(move))
		})
		if err != nil {
			return err
		}
	}
	d.mu.Lock()
	delete(d.staged, move)
	d.mu.Unlock()
	return nil
}

// deleteSome deletes keys under p up to the limit, and says whether any is left.
func deleteSome(b *bbolt.Bucket, p scope.Prefix, left limit) (more bool, err error) {
	var found []entry
	r := read(b, p, nil)
	for ; r.key != nil && !left.reached(); r.next() {
		found = append(found, entry{key: bytes.Clone(r.key)})
		left.take(len(r.key) + len(r.value))
	}
	return r.key != nil, apply(b, found)
}

// Staged implements [client.Store].
func (d *Disk) Staged(context.Context) (moves []string, err error) {
	err = d.db.View(func(tx *bbolt.Tx) error {
		return staging(tx).ForEachBucket(func(move []byte) error {
			moves = append(moves, string(move))
			return nil
		})
	})
	return moves, err
}

// Clean implements [client.Store].
func (d *Disk) Clean(ctx context.Context, p scope.Prefix) (more bool, err error) {
	if err := ctx.Err(); err != nil {
		return true, err
	}
	err = d.update(func(tx *bbolt.Tx) error {
		more, err = deleteSome(values(tx), p, d.page)
		return err
	})
	return more, err
}

// Size implements [client.Sizer]. It reads what it counts, but copies nothing.
func (d *Disk) Size(ctx context.Context, p scope.Prefix) (records, size uint64, err error) {
	count := func(key, entry []byte) error {
		records++
		size += uint64(len(key) + len(entry))
		return nil
	}
	err = d.scan(ctx, values, p, count, func() error { return nil })
	return records, size, err
}
