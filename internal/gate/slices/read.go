package slices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// firstWidth and lastWidth bound the keys of which the values are asked for at one time: enough that the way there and
	// back does not count.
	firstWidth = 32
	lastWidth  = 512
	// maxAhead bounds what the store may have to hold for the reader, if no value is larger than the largest so far.
	maxAhead = 16 << 20
	// largeValue is where an operator may want to know: as long as it takes to dump and to restore it, a store does nothing else.
	largeValue = 16 << 20
)

// reading is one pass over keys and their values.
type reading struct {
	prefix scope.Prefix
	log    *slog.Logger
	send   func(client.Record) error
	// encoding is told of each value.
	encoding func(key string, encoding byte)
	// gone is told of keys that are not there; nil does not care.
	gone func(key string) error
	pace pace

	pending []string // that were not asked for
	cursor  string   // of the next page; "" if the keys are given
	seen    map[string]struct{}
	asked   []request // in this order
	width   int
	largest int
	value   []byte
	page    []string
}

// request is one thing that was asked for: a page of the scan, or a key with its value. The key may be empty.
type request struct {
	page bool
	key  string
}

// run asks for the values of r.pending, and of what the scan brings, until all have come.
func (r *reading) run(ctx context.Context, c *conn) error {
	r.width = firstWidth
	for {
		if err := r.ask(c); err != nil {
			return err
		}
		if len(r.asked) == 0 {
			return nil
		}
		var err error
		if next := r.asked[0]; next.page {
			err = r.readPage(c)
		} else {
			err = r.readValue(ctx, c, next.key)
		}
		if err != nil {
			return err
		}
		r.asked = r.asked[1:]
	}
}

// ask keeps the store busy: what is asked for while there is still half of what was is answered by the time that is read.
func (r *reading) ask(c *conn) error {
	if len(r.asked) > r.width/2 {
		return nil
	}
	n := min(len(r.pending), r.width-len(r.asked))
	for _, k := range r.pending[:n] {
		c.head(2)
		addBulk(c, "DUMP")
		addBulk(c, k)
		c.head(2)
		addBulk(c, "PEXPIRETIME")
		addBulk(c, k)
		r.asked = append(r.asked, request{key: k})
	}
	if r.pending = r.pending[n:]; len(r.pending) == 0 && r.cursor != "" {
		addScan(c, r.cursor, r.prefix)
		r.asked = append(r.asked, request{page: true})
		r.cursor = ""
	}
	return c.flush()
}

func (r *reading) readPage(c *conn) error {
	next, keys, err := readScan(c, r.prefix, r.page[:0])
	if err != nil {
		return err
	}
	r.page = keys
	for _, k := range keys {
		if _, twice := r.seen[k]; !twice { // as while the store's table grows or shrinks
			r.seen[k] = struct{}{}
			r.pending = append(r.pending, k)
		}
	}
	if next != "0" {
		r.cursor = next
	}
	return nil
}

// readValue reads what DUMP and PEXPIRETIME say of a key, and hands it on. A change between the two is told later, or there
// is none.
func (r *reading) readValue(ctx context.Context, c *conn, key string) error {
	dump, err := c.read(r.value)
	if errors.Is(err, errLong) {
		return fmt.Errorf("key %q: its value has %d bytes, and one that moves has %d at most", scope.BytesText(key), dump.n, maxBulk)
	}
	if err != nil {
		return err
	}
	expires, err := c.read(nil)
	switch {
	case err != nil:
		return err
	case dump.err() != nil:
		return fmt.Errorf("key %q cannot be read: %w", scope.BytesText(key), broken(dump.err()))
	case expires.err() != nil:
		return fmt.Errorf("key %q: its expiry cannot be read: %w; a gate needs Redis 7.0 or later, or Valkey", scope.BytesText(key), broken(expires.err()))
	case dump.null || expires.n == -2: // it went, or expired between the two
		if r.gone != nil {
			return r.gone(key)
		}
		return nil
	}
	r.learn(key, dump.text)
	record := client.Record{Key: []byte(key), Value: dump.text, Expires: max(0, expires.n)}
	if err := r.pace.wait(ctx, len(key)+len(dump.text)); err != nil {
		return err
	}
	return r.send(record)
}

// broken keeps a refusal from counting as one: more answers are on their way.
func broken(err error) error { return errors.New(err.Error()) }

// learn adapts how much is asked for at one time to how large values are.
func (r *reading) learn(key string, value []byte) {
	if cap(value) <= maxAhead {
		r.value = value[:0]
	}
	if len(value) > largeValue {
		r.log.Warn("a key is large, and the stores stand still while it is read and written", "key", scope.BytesText(key), "bytes", len(value))
	}
	if r.encoding != nil && len(value) > 0 {
		r.encoding(key, value[0])
	}
	r.largest = max(r.largest, len(value))
	r.width = min(2*r.width, lastWidth, max(1, maxAhead/(r.largest+1)))
}

// Ship implements [client.Store].
func (s *Store) Ship(ctx context.Context, slice client.Slice, send func(client.Record) error) error {
	return s.shipAll(ctx, slice, &reading{send: send})
}

// shipAll runs a reading of all keys.
func (s *Store) shipAll(ctx context.Context, slice client.Slice, r *reading) error {
	r.prefix, r.log, r.cursor, r.seen = slice.Prefix, s.log, "0", map[string]struct{}{}
	l := &link{up: s.up, reads: true}
	defer l.close()
	return l.do(ctx, func(c *conn) error { return r.run(ctx, c) })
}

// Size implements [client.Sizer]: keys are counted, and the bytes of some of them are taken for those of all.
func (s *Store) Size(ctx context.Context, p scope.Prefix) (records, bytes uint64, err error) {
	const samples = 256
	l := &link{up: s.up, reads: true}
	defer l.close()
	var some []string
	err = l.do(ctx, func(c *conn) error {
		return scan(c, p, func(keys []string) error {
			records += uint64(len(keys))
			if len(keys) > 0 && len(some) < samples {
				some = append(some, keys[0])
			}
			return nil
		})
	})
	if err != nil || len(some) == 0 {
		return records, 0, err
	}
	var sum uint64
	err = l.do(ctx, func(c *conn) error {
		for _, k := range some {
			c.add("MEMORY", "USAGE", k)
		}
		if err := c.flush(); err != nil {
			return err
		}
		for _, k := range some {
			r, err := c.read(nil)
			if err == nil && r.err() != nil {
				err = broken(r.err())
			}
			if err != nil {
				return err
			}
			sum += uint64(max(0, r.n)) + uint64(len(k))
		}
		return nil
	})
	if err != nil {
		return records, 0, err
	}
	return records, sum / uint64(len(some)) * records, nil
}
