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
	// width bounds what the store is asked for at one time: enough that the way there and back does not count.
	width = 512
	// maxAhead bounds what the store has to hold for the reader: the values that were asked for together, but for a single one
	// that is larger.
	maxAhead = 16 << 20
)

// reading is one pass over keys and their values. A value is asked for once it is known how large it is.
type reading struct {
	limits limits
	prefix scope.Prefix
	log    *slog.Logger
	send   func(client.Record) error
	// weigh is told how large each key is, and no value is read; nil has them read.
	weigh func(key string, size int64)
	// encoding is told of each value.
	encoding func(key string, encoding byte)
	// short tells of a key that its value is shorter than longKey, so that it need not be weighed; nil knows of none.
	short func(key string) bool
	// gone is told of keys that are not there; nil does not care.
	gone func(key string) error
	pace pace

	pending []string  // that were not weighed
	weighed []request // whose values were not asked for
	cursor  string    // of the next page; "" if the keys are given
	seen    map[string]struct{}
	asked   []request // in this order
	ahead   int64     // bytes of the values among them
	value   []byte
	page    []string
}

// question is what the store is asked.
type question uint8

const (
	aPage   question = iota // of the scan
	aWeight                 // how much memory a key takes
	aLength                 // of a string
	aValue                  // and when it expires
)

// request is something that was asked for, or will be. The key may be empty.
type request struct {
	question
	key  string
	size int64 // once it is known
}

// run asks for the values of r.pending, and of what the scan brings, until all have come.
func (r *reading) run(ctx context.Context, c *conn) error {
	defer func() { c.heavy = 0 }()
	for {
		if err := r.ask(c); err != nil {
			return err
		}
		if len(r.asked) == 0 {
			return nil
		}
		next := r.asked[0]
		r.asked = r.asked[1:]
		var err error
		switch next.question {
		case aPage:
			err = r.readPage(c)
		case aWeight:
			err = r.readWeight(c, next)
		case aLength:
			err = r.readLength(c, next)
		case aValue:
			err = r.readValue(ctx, c, next)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// ask keeps the store busy: what is asked for while there is still half of what was is answered by the time that is read.
func (r *reading) ask(c *conn) error {
	if len(r.asked) > width/2 {
		return nil
	}
	n := min(len(r.pending), max(0, width-len(r.asked)-len(r.weighed)))
	for _, k := range r.pending[:n] {
		if r.short != nil && r.short(k) {
			r.weighed = append(r.weighed, request{aValue, k, longKey})
			continue
		}
		c.add("MEMORY", "USAGE", k)
		r.asked = append(r.asked, request{question: aWeight, key: k})
	}
	for len(r.weighed) > 0 && len(r.asked) < width && (r.ahead == 0 || r.ahead+r.weighed[0].size <= maxAhead) {
		next := r.weighed[0]
		r.weighed, r.ahead = r.weighed[1:], r.ahead+next.size
		c.add("DUMP", next.key)
		c.add("PEXPIRETIME", next.key)
		r.asked = append(r.asked, next)
	}
	if r.pending = r.pending[n:]; len(r.pending) == 0 && r.cursor != "" {
		addScan(c, r.cursor, r.prefix)
		r.asked = append(r.asked, request{question: aPage})
		r.cursor = ""
	}
	c.heavy = r.ahead
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

// readWeight reads what MEMORY USAGE says of a key. What it says of a long string is more than the string has, by up to a
// quarter: its length is asked for.
func (r *reading) readWeight(c *conn, of request) error {
	usage, err := c.read(nil)
	switch {
	case err != nil:
		return err
	case usage.err() != nil:
		return fmt.Errorf("key %q: its size cannot be read: %w", scope.BytesText(of.key), broken(usage.err()))
	case usage.null:
		return r.left(of.key)
	}
	of.size = usage.n
	if of.size <= r.limits.large {
		return r.know(of)
	}
	c.add("STRLEN", of.key)
	of.question = aLength
	r.asked = append(r.asked, of)
	return nil
}

// readLength reads what STRLEN says: of what is no string an error. A string counts with what its dump may add, so that the
// weight says before the scope is closed what the dump would say after.
func (r *reading) readLength(c *conn, of request) error {
	length, err := c.read(nil)
	if err != nil {
		return err
	}
	if length.err() == nil {
		of.size = length.n + stringCost
	}
	return r.know(of)
}

// know goes on with a key whose size is known.
func (r *reading) know(of request) error {
	if r.weigh != nil {
		r.weigh(of.key, of.size)
		return nil
	}
	if err := r.limits.check(of.key, of.size); err != nil {
		return err
	}
	if of.size > r.limits.large {
		r.log.Info("a large key is read; both stores stand still meanwhile", "key", scope.BytesText(of.key), "bytes", of.size)
	}
	of.question = aValue
	r.weighed = append(r.weighed, of)
	return nil
}

// left goes on with a key that is not there.
func (r *reading) left(key string) error {
	if r.gone == nil {
		return nil
	}
	return r.gone(key)
}

// readValue reads what DUMP and PEXPIRETIME say of a key, and hands it on. A change between the two is told later, or there
// is none.
func (r *reading) readValue(ctx context.Context, c *conn, of request) error {
	r.ahead -= of.size
	dump, err := c.read(r.value)
	if errors.Is(err, errLong) {
		return r.limits.check(of.key, dump.n)
	}
	if err != nil {
		return cutOff(of.key, of.size, err, "client-output-buffer-limit and maxmemory-clients")
	}
	expires, err := c.read(nil)
	switch {
	case err != nil:
		return err
	case dump.err() != nil:
		return fmt.Errorf("key %q cannot be read: %w", scope.BytesText(of.key), broken(dump.err()))
	case expires.err() != nil:
		return fmt.Errorf("key %q: its expiry cannot be read: %w; a gate needs Redis 7.0 or later, or Valkey", scope.BytesText(of.key), broken(expires.err()))
	case dump.null || expires.n == -2: // it went, or expired between the two
		return r.left(of.key)
	}
	if err := r.limits.check(of.key, int64(len(dump.text))); err != nil {
		return err
	}
	if cap(dump.text) <= maxAhead {
		r.value = dump.text[:0]
	}
	if r.encoding != nil && len(dump.text) > 0 {
		r.encoding(of.key, dump.text[0])
	}
	record := client.Record{Key: []byte(of.key), Value: dump.text, Expires: max(0, expires.n)}
	if err := r.pace.wait(ctx, len(record.Key)+len(record.Value)); err != nil {
		return err
	}
	return r.send(record)
}

// broken keeps a refusal from counting as one: more answers are on their way.
func broken(err error) error { return errors.New(err.Error()) }

// Ship implements [client.Store].
func (s *Store) Ship(ctx context.Context, slice client.Slice, send func(client.Record) error) error {
	return s.readAll(ctx, slice.Prefix, &reading{send: send})
}

// readAll runs a reading of all keys.
func (s *Store) readAll(ctx context.Context, p scope.Prefix, r *reading) error {
	r.limits, r.prefix, r.log, r.cursor, r.seen = s.limits, p, s.log, "0", map[string]struct{}{}
	l := &link{up: s.up, reads: true}
	defer l.close()
	return l.do(ctx, func(c *conn) error { return r.run(ctx, c) })
}
