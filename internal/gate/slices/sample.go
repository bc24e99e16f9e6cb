package slices

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

// maxSample is how many keys are compared with what was staged: all of a slice that has no more, and so many, or half of
// that, of a larger one. A scope is closed meanwhile, for about two microseconds each.
const maxSample = 4096

// sample keeps what was staged of some keys, the same ones whatever the order they come in. It is compared with what the
// store has.
type sample struct {
	keys map[string]shape
	seed maphash.Seed
	most uint64 // of the hashes of keys that are kept
}

// shape is what of a record the store says cheaply.
type shape struct {
	kind    string // as TYPE has it; "" is not known
	expires int64
}

func newSample() sample {
	return sample{keys: map[string]shape{}, seed: maphash.MakeSeed(), most: math.MaxUint64}
}

func (s *sample) take(r client.Record) {
	if maphash.Bytes(s.seed, r.Key) > s.most {
		return
	}
	if r.Deleted {
		delete(s.keys, string(r.Key))
		return
	}
	x := shape{expires: r.Expires}
	if len(r.Value) > 0 {
		x.kind = kindOf(r.Value[0])
	}
	s.keys[string(r.Key)] = x
	for len(s.keys) > maxSample {
		s.most /= 2
		for k := range s.keys {
			if maphash.String(s.seed, k) > s.most {
				delete(s.keys, k)
			}
		}
	}
}

// compare asks the store for the types and expiries of the kept keys. One that is missing has expired, or it is an error.
func (s *sample) compare(c *conn) error {
	keys := make([]string, 0, len(s.keys))
	for k := range s.keys {
		keys = append(keys, k)
		c.add("TYPE", k)
		c.add("PEXPIRETIME", k)
	}
	c.add("TIME")
	if err := c.flush(); err != nil {
		return err
	}
	var missing []string
	var first error
	for _, k := range keys {
		kind, err := c.read(nil)
		if err != nil {
			return err
		}
		expires, err := c.read(nil)
		if err != nil {
			return err
		}
		want := s.keys[k]
		switch {
		case kind.err() != nil || expires.err() != nil:
			err = errors.Join(kind.err(), expires.err())
		case string(kind.text) == "none" || expires.n == -2:
			missing = append(missing, k)
		case want.kind != "" && string(kind.text) != want.kind:
			err = fmt.Errorf("it is a %s, and a %s was staged", kind.text, want.kind)
		case max(0, expires.n) != want.expires:
			err = fmt.Errorf("it expires at %d, and what was staged at %d (ms since 1970; 0 is never)", max(0, expires.n), want.expires)
		}
		if err != nil && first == nil {
			first = fmt.Errorf("key %q is not what was staged: %w", scope.BytesText(k), err)
		}
	}
	now, err := timeOf(c)
	if err != nil {
		return err
	}
	for _, k := range missing {
		if want := s.keys[k]; (want.expires == 0 || want.expires > now) && first == nil {
			first = fmt.Errorf("key %q was staged and is not in the store any more", scope.BytesText(k))
		}
	}
	return first
}

// timeOf reads the answer of TIME: milliseconds since 1970.
func timeOf(c *conn) (int64, error) {
	r, err := c.read(nil)
	if err != nil {
		return 0, err
	}
	var seconds, micros int64
	if len(r.items) == 2 {
		if _, err = fmt.Sscan(string(r.items[0].text), &seconds); err == nil {
			_, err = fmt.Sscan(string(r.items[1].text), &micros)
		}
		return seconds*1000 + micros/1000, err
	}
	return 0, fmt.Errorf("%w: TIME has %d parts", errProtocol, len(r.items))
}
