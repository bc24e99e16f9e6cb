package slices

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

var _ client.Offerer = (*Store)(nil)

const (
	// maxProbe bounds the value that is tried at the target before all others.
	maxProbe = 16 << 10
	// usualRate is what two stores on one machine do with short values, in keys a second, and usualBytes what they do with
	// long ones; they are for an estimate.
	usualRate  = 50_000
	usualBytes = 64 << 20
	// probeTime is how long the tried value stays at most, in milliseconds, if nobody deletes it.
	probeTime = 10_000
)

// offer is what a source knows of a slice before it sends it, as JSON.
type offer struct {
	Keys    uint64 `json:"keys"`
	Bytes   uint64 `json:"bytes"`           // of the source's memory, about
	Largest uint64 `json:"largest"`         // bytes of one key
	Probe   []byte `json:"probe,omitempty"` // one of the values
}

// Offer implements [client.Offerer].
func (s *Store) Offer(ctx context.Context, slice client.Slice) (out client.Offered, err error) {
	found, err := s.survey(ctx, slice)
	if err == nil {
		err = s.limits.refuse(found)
	}
	if err != nil {
		return out, err
	}
	s.weighed(slice.Move, found.long)
	o := offer{Keys: found.keys, Bytes: found.bytes, Largest: uint64(found.largest.size)}
	if o.Probe, err = s.probe(ctx, found.small); err != nil {
		return out, err
	}
	s.log.Info("a slice is about to be sent", "move", slice.Move, "scope", slice.Prefix.Text(), "keys", o.Keys, "bytes", o.Bytes,
		"estimate", (time.Duration(o.Keys)*time.Second/usualRate + time.Duration(o.Bytes/usualBytes)*time.Second).Round(time.Second))
	out.Records, out.Bytes = o.Keys, o.Bytes
	out.Text, err = json.Marshal(o)
	return out, err
}

// probe is the value of one key, nil if there is none, or it has gone or grown.
func (s *Store) probe(ctx context.Context, small []string) (value []byte, err error) {
	if len(small) == 0 {
		return nil, nil
	}
	l := &link{up: s.up, reads: true}
	defer l.close()
	r, err := l.ask(ctx, "DUMP", small[0])
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

// roomFor refuses a slice for which the store has no memory. While a value is restored the store has it twice.
func roomFor(o offer, info map[string]string) error {
	most, err := strconv.ParseUint(info["maxmemory"], 10, 64)
	if err != nil || most == 0 {
		return nil // no limit, or none that is told
	}
	used, err := strconv.ParseUint(info["used_memory"], 10, 64)
	if err == nil && used+o.Bytes+o.Largest > most {
		return fmt.Errorf("the store has no room for about %d bytes, of which one value has %d and is there twice while it is restored: it uses %d of %d (maxmemory); raise that, or move something else away",
			o.Bytes, o.Largest, used, most)
	}
	return nil
}
