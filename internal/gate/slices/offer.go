package slices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/scope"
)

var _ client.Offerer = (*Store)(nil)

const (
	// maxProbe bounds the value that is tried at the target before all others.
	maxProbe = 16 << 10
	// usualRate is what two stores on one machine do with short values, in keys a second; it is for an estimate.
	usualRate = 50_000
	// probeTime is how long the tried value stays at most, in milliseconds, if nobody deletes it.
	probeTime = 10_000
)

// offer is what a source knows of a slice before it sends it, as JSON.
type offer struct {
	Keys  uint64 `json:"keys"`
	Bytes uint64 `json:"bytes"`           // of the source's memory, about
	Probe []byte `json:"probe,omitempty"` // one of the values
}

// Offer implements [client.Offerer].
func (s *Store) Offer(ctx context.Context, slice client.Slice) ([]byte, error) {
	var o offer
	var err error
	if o.Keys, o.Bytes, err = s.Size(ctx, slice.Prefix); err != nil {
		return nil, err
	}
	if o.Probe, err = s.probe(ctx, slice.Prefix); err != nil {
		return nil, err
	}
	s.log.Info("a slice is about to be sent", "move", slice.Move, "scope", slice.Prefix.Text(), "keys", o.Keys, "bytes", o.Bytes,
		"estimate", (time.Duration(o.Keys) * time.Second / usualRate).Round(time.Second))
	return json.Marshal(o)
}

// probe is a value of the slice, nil if none of the first ones is small enough.
func (s *Store) probe(ctx context.Context, p scope.Prefix) (value []byte, err error) {
	l := &link{up: s.up, reads: true}
	defer l.close()
	found := errors.New("one key is enough")
	err = l.do(ctx, func(c *conn) error {
		return scan(c, p, func(keys []string) error {
			if len(keys) > 0 {
				value = []byte(keys[0])
				return found
			}
			return nil
		})
	})
	if value == nil {
		return nil, err
	}
	r, err := l.ask(ctx, "DUMP", string(value))
	if err != nil || r.null || len(r.text) > maxProbe {
		return nil, err
	}
	return r.text, nil
}

// Take implements [client.Offerer]: the probe can be restored, there is memory, and nothing is in the way.
func (s *Store) Take(ctx context.Context, slice client.Slice, text []byte) error {
	var o offer
	if err := json.Unmarshal(text, &o); err != nil {
		return fmt.Errorf("the source's offer cannot be read: %w; does it run a gate of this version?", err)
	}
	l := &link{up: s.up}
	defer l.close()
	if err := s.tryProbe(ctx, l, slice.Move, o.Probe); err != nil {
		return s.certainly(l, err)
	}
	info, err := infoOf(ctx, l)
	if err != nil {
		return err
	}
	if err := roomFor(o, info); err != nil && !s.cfg.Replace { // what is there makes room
		return err
	}
	if policy := info["maxmemory_policy"]; policy != "noeviction" && info["maxmemory"] != "0" {
		s.log.Warn("the store may delete keys to make room, also those that are coming; then the move is aborted; set maxmemory-policy noeviction",
			"move", slice.Move, "policy", policy)
	}
	_, err = s.begin(ctx, slice)
	return err
}

// tryProbe restores a value under a name of the gate's own, and deletes it.
func (s *Store) tryProbe(ctx context.Context, l *link, move string, probe []byte) error {
	if len(probe) == 0 {
		return nil
	}
	key := upstream.Reserved + "probe:" + move
	if _, err := l.ask(ctx, "RESTORE", key, strconv.Itoa(probeTime), string(probe), "REPLACE"); err != nil {
		return fmt.Errorf("the store cannot restore what the source's dumps (format %d): %w; Redis 7.4 and later, Valkey 9 and later, and stores before them do not read each other's values: "+
			"have both run the same program, the target no older one", formatOf(probe), err)
	}
	_, err := l.ask(ctx, "UNLINK", key)
	return err
}

// roomFor refuses a slice for which the store has no memory.
func roomFor(o offer, info map[string]string) error {
	most, err := strconv.ParseUint(info["maxmemory"], 10, 64)
	if err != nil || most == 0 {
		return nil // no limit, or none that is told
	}
	used, err := strconv.ParseUint(info["used_memory"], 10, 64)
	if err == nil && used+o.Bytes > most {
		return fmt.Errorf("the store has no room for about %d bytes: it uses %d of %d (maxmemory); raise that, or move something else away", o.Bytes, used, most)
	}
	return nil
}
