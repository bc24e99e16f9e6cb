package slices

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

// health is what must not change at a store while a slice is staged in it.
type health struct {
	run     string // another one after each start
	evicted string // how many keys it has deleted to make room
	aof     bool   // it keeps an append-only file
}

// Stage implements [client.Store]: each record is restored where it will be used. The first error is that of the key it is
// about.
func (s *Store) Stage(ctx context.Context, slice client.Slice, batch []client.Record) error {
	st, err := s.begin(ctx, slice)
	if err != nil {
		return err
	}
	for _, r := range batch {
		if !slice.Prefix.Matches(r.Key) || isOurs(r.Key) {
			return fmt.Errorf("move %s is of %q and brought the key %q", slice.Move, slice.Prefix, scope.BytesText(string(r.Key)))
		}
	}
	if err := st.link.do(ctx, func(c *conn) error { return restore(c, batch) }); err != nil {
		return err
	}
	for _, r := range batch {
		st.some.take(r)
	}
	return nil
}

// restoreSettings are those of the store that a long value may be beyond.
const restoreSettings = "proto-max-bulk-len, client-query-buffer-limit and maxmemory-clients"

// restore sends all records, and then reads all answers: they are short.
func restore(c *conn, batch []client.Record) error {
	defer func() { c.heavy = 0 }()
	for _, r := range batch {
		if r.Deleted {
			c.head(2)
			addBulk(c, "UNLINK")
			addBulk(c, r.Key)
			continue
		}
		c.head(6)
		addBulk(c, "RESTORE")
		addBulk(c, r.Key)
		addBulk(c, strconv.FormatInt(r.Expires, 10))
		c.heavy += int64(len(r.Value))
		if len(r.Value) < writeStep {
			addBulk(c, r.Value)
		} else if err := c.sendBulk(r.Value); err != nil {
			return cutOff(string(r.Key), int64(len(r.Value)), err, restoreSettings)
		}
		addBulk(c, "REPLACE")
		addBulk(c, "ABSTTL")
	}
	if err := c.flush(); err != nil {
		return err
	}
	var first error
	var text [64]byte
	for _, r := range batch {
		answer, err := c.read(text[:0])
		if err != nil {
			return cutOff(string(r.Key), int64(len(r.Value)), err, restoreSettings)
		}
		if err := answer.err(); err != nil && first == nil {
			first = cutOff(string(r.Key), int64(len(r.Value)), err, restoreSettings)
		}
	}
	return first
}

// begin closes the prefix, sees that nothing but what this move has left is there, or deletes it, and marks the store.
func (s *Store) begin(ctx context.Context, slice client.Slice) (*stage, error) {
	st, err := s.claim(slice)
	if err != nil || st.begun {
		return st, err
	}
	if st.was, err = healthOf(ctx, &st.link); err != nil {
		return nil, err
	}
	r, err := st.link.ask(ctx, "HGET", markers, st.Move)
	if err != nil {
		return nil, err
	}
	own := !r.null
	there, err := look(ctx, &st.link, slice.Prefix)
	if err != nil {
		return nil, err
	}
	if there.keys > 0 && !own && !s.cfg.Replace {
		return nil, there.refuse(slice.Prefix)
	}
	if _, err := st.link.ask(ctx, "HSET", markers, st.Move, marker{markStaging, slice.Prefix}.String()); err != nil {
		return nil, err
	}
	if there.keys > 0 {
		if _, err := wipe(ctx, &st.link, slice.Prefix); err != nil {
			return nil, err
		}
		s.log.Warn("what the store held where a slice comes is deleted", "move", st.Move, "scope", slice.Prefix.Text(), "keys", there.keys, "left by this move", own)
	}
	st.begun, st.run, st.some = true, st.was.run, newSample()
	return st, nil
}

// found is what a store holds under a prefix.
type found struct {
	keys int
	one  string // of them
}

func look(ctx context.Context, l *link, p scope.Prefix) (f found, err error) {
	err = l.do(ctx, func(c *conn) error {
		return scan(c, p, func(keys []string) error {
			if f.keys += len(keys); len(keys) > 0 && f.one == "" {
				f.one = keys[0]
			}
			return nil
		})
	})
	return f, err
}

func (f found) refuse(p scope.Prefix) error {
	return fmt.Errorf("the store holds %d keys under %q already, such as %q; delete them, or have the gate replace them (--replace)", f.keys, p, scope.BytesText(f.one))
}

func healthOf(ctx context.Context, l *link) (health, error) {
	info, err := infoOf(ctx, l)
	return health{run: info["run_id"], evicted: info["evicted_keys"], aof: info["aof_enabled"] == "1"}, err
}

// infoOf asks for the fields of INFO.
func infoOf(ctx context.Context, l *link) (map[string]string, error) {
	r, err := l.ask(ctx, "INFO")
	out := map[string]string{}
	for line := range strings.Lines(string(r.text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			out[name] = value
		}
	}
	return out, err
}

// Verify implements [client.Store]. Nobody calls it, as the store is a [client.Settler]: what DUMP gives of a restored key need
// not be what was restored.
func (s *Store) Verify(_ context.Context, slice client.Slice, _ func(client.Record) error) error {
	return fmt.Errorf("move %s: a store of this kind cannot read back records as they came", slice.Move)
}

// syncTime bounds the wait for the store's disk, in milliseconds; it syncs each second.
const syncTime = 10_000

// Settle implements [client.Settler].
func (s *Store) Settle(ctx context.Context, slice client.Slice, taken client.Manifest) error {
	st, err := s.begin(ctx, slice) // a slice may be empty
	if err != nil {
		return err
	}
	if err := st.link.do(ctx, func(c *conn) error { return st.some.compare(c) }); err != nil {
		return err
	}
	is, err := healthOf(ctx, &st.link)
	switch {
	case err != nil:
		return err
	case is.run != st.was.run:
		return errors.New("the store was restarted while the slice was staged, and may have lost some of it")
	case is.evicted != st.was.evicted:
		return fmt.Errorf("the store has deleted keys to make room while the slice was staged (evicted_keys was %s and is %s); give it memory, and set maxmemory-policy noeviction", st.was.evicted, is.evicted)
	}
	if _, err := st.link.ask(ctx, "HSET", markers, st.Move, marker{markSealed, slice.Prefix}.String()); err != nil {
		return err
	}
	if is.aof {
		if err := st.sync(ctx, s); err != nil {
			return err
		}
	}
	if taken.Keys > 0 {
		return nil
	}
	next := st.entry
	next.Empty = true
	return s.put(st, next)
}

// sync waits until what was written is in the store's append-only file. Before Redis 7.2 a store cannot be asked to: what it
// keeps when it dies is then what its appendfsync says.
func (st *stage) sync(ctx context.Context, s *Store) error {
	r, err := st.link.ask(ctx, "WAITAOF", "1", "0", strconv.Itoa(syncTime))
	var no *refusal
	switch {
	case errors.As(err, &no):
		s.log.Info("the store cannot say when the slice is on its disk; it is as durable as its appendfsync makes any write", "move", st.Move, "error", err)
		return nil
	case err != nil:
		return err
	case len(r.items) != 2 || r.items[0].n < 1:
		return fmt.Errorf("the store's append-only file was not on the disk after %d ms", syncTime)
	}
	return nil
}
