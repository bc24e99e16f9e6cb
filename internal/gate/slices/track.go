package slices

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
)

const (
	// maxChanged bounds the bytes of keys that have changed and were not read yet, with changedCost for each; beyond it the
	// slice is read as a whole.
	maxChanged  = 64 << 20
	changedCost = 64
)

var _ client.Tracker = (*Store)(nil)

// tracking is a connection on which the store tells what changes under a prefix.
type tracking struct {
	s     *Store
	slice client.Slice
	push  *conn
	ended chan struct{} // closed when nothing is read of push any more
	pongs chan struct{}
	read  link

	mu      sync.Mutex // guards what follows
	changed map[string]struct{}
	bytes   int
	lost    error
	long    map[string]struct{} // all keys that are, but for those that have changed since; nil is not known

	// For the one who uses it: keys whose changes the store does not tell, of this slice.
	untold map[string]struct{}
}

// Track implements [client.Tracker].
func (s *Store) Track(ctx context.Context, slice client.Slice) (client.Tracking, error) {
	up, err := s.up.Dial(ctx)
	if err != nil {
		return nil, err
	}
	t := &tracking{s: s, slice: slice, push: newConn(up), ended: make(chan struct{}), pongs: make(chan struct{}, 1),
		read: link{up: s.up, reads: true}, changed: map[string]struct{}{}, untold: map[string]struct{}{}}
	release := t.push.bind(ctx)
	_, err = t.push.ask("HELLO", "3")
	if err == nil {
		on := []string{"CLIENT", "TRACKING", "ON", "BCAST"}
		if slice.Prefix != "" {
			on = append(on, "PREFIX", string(slice.Prefix))
		}
		_, err = t.push.ask(on...)
	}
	if !release() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = up.Close()
		return nil, fmt.Errorf("the store does not tell what changes (CLIENT TRACKING): %w", err)
	}
	t.push.endless = true
	s.mu.Lock()
	s.tracks[slice.Move] = t
	s.mu.Unlock()
	go t.listen()
	return t, nil
}

// listen notes what the store tells, until the connection ends.
func (t *tracking) listen() {
	defer close(t.ended)
	for {
		r, err := t.push.read(nil)
		if err == nil {
			err = t.note(r)
		}
		if err != nil {
			t.lose(err)
			return
		}
	}
}

// note takes one message. One that names no keys is of FLUSHALL and its like. A refusal is of a PING, as by a store that is
// busy with a script: what it has told until then is not known.
func (t *tracking) note(r reply) error {
	if err := r.err(); err != nil {
		return err
	}
	if r.kind == '+' {
		select {
		case t.pongs <- struct{}{}:
		default:
		}
		return nil
	}
	if r.kind != '>' || len(r.items) != 2 || string(r.items[0].text) != "invalidate" {
		return nil // something else that is told to everybody
	}
	if r.items[1].null {
		return errors.New("the store was emptied")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range r.items[1].items {
		if t.slice.Prefix.Matches(k.text) && !isOurs(k.text) {
			t.put(string(k.text))
		}
	}
	if t.bytes > maxChanged {
		return fmt.Errorf("more keys have changed than are kept (%d)", len(t.changed))
	}
	return nil
}

// put is called with mu held.
func (t *tracking) put(key string) {
	if _, known := t.changed[key]; !known {
		t.changed[key] = struct{}{}
		t.bytes += len(key) + changedCost
	}
}

func (t *tracking) lose(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost == nil {
		t.lost = fmt.Errorf("%w: %w", client.ErrTrackingLost, why)
	}
	t.changed, t.bytes = map[string]struct{}{}, 0
}

// barrier returns when all is noted that was told of changes whose writers have had their answers. Messages are sent at the
// end of the store's turn in which the changes were made, behind the answers of that turn to this connection: so that the
// answer to the second question, which is asked in a later turn, comes behind them.
func (t *tracking) barrier(ctx context.Context) error {
	for range 2 {
		select {
		case <-t.pongs: // of a barrier that was given up
		default:
		}
		if err := t.ping(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *tracking) ping(ctx context.Context) error {
	t.push.add("PING")
	if err := t.push.flush(); err != nil {
		return fmt.Errorf("%w: %w", client.ErrTrackingLost, err)
	}
	late := time.NewTimer(silence)
	defer late.Stop()
	select {
	case <-t.pongs:
		return nil
	case <-late.C: // the connection may have died silently
		t.Close()
		return fmt.Errorf("%w: the store did not answer for %v", client.ErrTrackingLost, silence)
	case <-t.ended:
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.lost
	case <-ctx.Done():
		t.Close() // an answer that comes later would be taken for another one's
		return context.Cause(ctx)
	}
}

// Ship implements [client.Tracking].
func (t *tracking) Ship(ctx context.Context, send func(client.Record) error) error {
	clear(t.untold)
	t.mu.Lock()
	before, long := t.changed, t.long
	t.changed, t.bytes, t.long = map[string]struct{}{}, 0, nil // all of it is read from here on
	t.mu.Unlock()
	r := &reading{send: send, encoding: t.learn, pace: newPace(t.s.cfg.Rate)}
	if long != nil {
		r.short = func(key string) bool {
			_, is := long[key]
			_, was := before[key]
			return !is && !was && !t.hasChanged(key)
		}
	}
	return t.s.readAll(ctx, t.slice.Prefix, r)
}

func (t *tracking) hasChanged(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, has := t.changed[key]
	return has || t.lost != nil
}

// weighed hands the tracking of a move, if there is one, the long keys of its slice.
func (s *Store) weighed(move string, long map[string]struct{}) {
	s.mu.Lock()
	t := s.tracks[move]
	s.mu.Unlock()
	if t == nil || len(long) > longKeys {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.long = long
}

func (t *tracking) learn(key string, encoding byte) {
	if told(encoding) {
		delete(t.untold, key)
	} else {
		t.untold[key] = struct{}{}
	}
}

// Changed implements [client.Tracking].
func (t *tracking) Changed(ctx context.Context, send func(client.Record) error) error {
	if err := t.barrier(ctx); err != nil {
		return err
	}
	left, err := t.take()
	if err != nil {
		return err
	}
	var pending []string
	for k := range left {
		pending = append(pending, k)
	}
	done := func(key string) { delete(left, key) }
	r := &reading{limits: t.s.limits, prefix: t.slice.Prefix, log: t.s.log, pending: pending, encoding: t.learn}
	r.send = func(x client.Record) error {
		err := send(x)
		if err == nil {
			done(string(x.Key))
		}
		return err
	}
	r.gone = func(key string) error {
		delete(t.untold, key)
		err := send(client.Record{Key: []byte(key), Deleted: true})
		if err == nil {
			done(key)
		}
		return err
	}
	err = t.read.do(ctx, func(c *conn) error { return r.run(ctx, c) })
	t.again(left)
	return err
}

// take returns the keys that are to be looked at, and those of which the store tells nothing.
func (t *tracking) take() (map[string]struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost != nil {
		return nil, t.lost
	}
	out := t.changed
	t.changed, t.bytes = map[string]struct{}{}, 0
	for k := range t.untold {
		out[k] = struct{}{}
	}
	return out, nil
}

func (t *tracking) again(keys map[string]struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range keys {
		t.put(k)
	}
}

// Keys implements [client.Tracking].
func (t *tracking) Keys(ctx context.Context, each func(key []byte) error) error {
	return t.read.do(ctx, func(c *conn) error {
		return scan(c, t.slice.Prefix, func(keys []string) error {
			for _, k := range keys {
				if err := each([]byte(k)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// Look implements [client.Tracking].
func (t *tracking) Look(keys []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		if t.slice.Prefix.Matches([]byte(k)) {
			t.put(k)
		}
	}
}

// Close implements [client.Tracking].
func (t *tracking) Close() {
	_ = t.push.up.Close()
	<-t.ended
	t.read.close()
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.s.tracks[t.slice.Move] == t {
		delete(t.s.tracks, t.slice.Move)
	}
}
