package slices

import (
	"context"
	"fmt"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// largeKey is where an operator may want to know: as long as it takes to dump and to restore it, a store does nothing else.
	largeKey = 64 << 20
	// longKey is from where on a key that was found before a move is weighed again when it is read; to weigh all would take an
	// eighth more of the processors than shipping short keys does. Up to longKeys are remembered: of a slice that has more,
	// all are weighed.
	longKey  = 32 << 10
	longKeys = 100_000
	// maxNamed bounds the large keys that are named in the log before a move.
	maxNamed = 10
)

// limits are on the size of a key: the length of a string with stringCost, and the memory that the store uses for anything else; and of both
// the length of the dump. Memory and dump differ in either direction. A collection of short members takes many times its dump,
// and long to be restored.
type limits struct {
	large int64 // beyond it is a warning
	most  int64 // that moves
}

var usualLimits = limits{large: largeKey, most: client.MaxValue}

func (m limits) check(key string, size int64) error {
	if size <= m.most {
		return nil
	}
	return fmt.Errorf("key %q has %d bytes, and one that moves has %d at most; delete it, or split it into smaller ones", scope.BytesText(key), size, m.most)
}

// cutOff is why a connection ended at a long value: mostly the store has ended it, for a limit of its own.
func cutOff(key string, size int64, why error, settings string) error {
	if size < writeStep {
		return fmt.Errorf("key %q: %w", scope.BytesText(key), why)
	}
	return fmt.Errorf("key %q with about %d bytes: %w; if the store has ended the connection, its %s must allow for such a value", scope.BytesText(key), size, why, settings)
}

// survey is how large the keys of a slice are.
type survey struct {
	keys, bytes uint64
	largest     request
	small       []string // the first one that may be a probe
	large, over int      // how many are beyond the limits
	long        map[string]struct{}
}

// survey weighs all keys of a slice, and warns of large ones.
func (s *Store) survey(ctx context.Context, slice client.Slice) (found survey, err error) {
	found.long = map[string]struct{}{}
	err = s.readAll(ctx, slice.Prefix, &reading{weigh: func(key string, size int64) {
		found.keys, found.bytes = found.keys+1, found.bytes+uint64(size)
		if size <= maxProbe && len(found.small) == 0 {
			found.small = []string{key}
		}
		if size > longKey && len(found.long) <= longKeys {
			found.long[key] = struct{}{}
		}
		if size > found.largest.size {
			found.largest = request{key: key, size: size}
		}
		if size > s.limits.most {
			found.over++
		}
		if size <= s.limits.large {
			return
		}
		if found.large++; found.large <= maxNamed {
			s.log.Warn("a key is large: the stores answer nobody while it is dumped and restored", "move", slice.Move, "key", scope.BytesText(key), "bytes", size)
		}
	}})
	if err == nil && found.large > maxNamed {
		s.log.Warn("more keys are large", "move", slice.Move, "keys", found.large, "named", maxNamed)
	}
	return found, err
}

// refuse is an error if any key may not move.
func (m limits) refuse(found survey) error {
	err := m.check(found.largest.key, found.largest.size)
	if found.over > 1 {
		err = fmt.Errorf("%w; %d keys are too large", err, found.over)
	}
	return err
}
