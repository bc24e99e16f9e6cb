package fsm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/scope"
)

// counts are uses counted anew from the records, by node, declared or not.
type counts map[scope.NodeID]*uses

func (c counts) of(id scope.NodeID) *uses {
	u := c[id]
	if u == nil {
		u = &uses{}
		c[id] = u
	}
	return u
}

func (c counts) scope(s *scope.Scope) {
	c.of(s.Writer).scopes++
	if s.Owner != s.Writer {
		c.of(s.Owner).scopes++
	}
	if s.Fallback != "" && s.Fallback != s.Writer && s.Fallback != s.Owner {
		c.of(s.Fallback).scopes++
	}
	c.of(s.Owner).owned++
}

// scopeCheck is one look at every scope, of which there may be a million. What is
// looked up by node is compared at the end as a whole: looking for each scope in
// it takes several times as long.
type scopeCheck struct {
	State
	counted counts
	none    int // scopes without a fallback
	waiting int // to be armed
	epochs  []tenure
	pairs   map[pair]*inheritance
}

type tenure struct {
	epoch  uint64
	prefix scope.Prefix
}

// inheritance is what an owner's fallback would get, in order.
type inheritance struct {
	due      bool // as the owner is down and the fallback lives
	prefixes []scope.Prefix
}

func (s State) checkScopes(counted counts) error {
	c := scopeCheck{State: s, counted: counted, epochs: make([]tenure, 0, s.scopes.Len()+s.tombstones.Len()), pairs: map[pair]*inheritance{}}
	for _, t := range s.tombstones.All() {
		c.epochs = append(c.epochs, tenure{t.Epoch, t.Prefix})
	}
	var last *scope.Scope
	for sc := range s.scopes.Scopes() {
		if last != nil && last.Prefix.Overlaps(sc.Prefix) {
			return fmt.Errorf("scopes %q and %q overlap", last.Prefix, sc.Prefix)
		}
		last = sc
		if err := c.look(sc); err != nil {
			return err
		}
	}
	if c.none != s.scopes.NoFallbackLen() {
		return fmt.Errorf("%d scopes have no fallback, counted are %d", c.none, s.scopes.NoFallbackLen())
	}
	if c.waiting != s.unarmed.at.Len() {
		return fmt.Errorf("%d scopes are unarmed, %d wait to be armed", c.waiting, s.unarmed.at.Len())
	}
	if err := c.checkEpochs(); err != nil {
		return err
	}
	return c.checkHeirs()
}

func (c *scopeCheck) look(sc *scope.Scope) error {
	c.epochs = append(c.epochs, tenure{sc.Epoch, sc.Prefix})
	c.counted.scope(sc)
	if sc.Fallback == "" {
		c.none++
	}
	if sc.Owner != sc.Writer && sc.Owner != sc.Fallback {
		return fmt.Errorf("scope %q is owned by %q, neither its writer nor its fallback", sc.Prefix, sc.Owner)
	}
	if sc.Quiesced != "" {
		if m, moving := c.moves.LookupMigrating(sc.Prefix); !moving || !m.Quiesced() || m.To != sc.Quiesced {
			return fmt.Errorf("scope %q is closed for %q without such a move", sc.Prefix, sc.Quiesced)
		}
	}
	return c.lookArmed(sc)
}

// lookArmed makes sure that no scope is left to a dead owner which its fallback
// should have, and that it is found when that may become so.
func (c *scopeCheck) lookArmed(sc *scope.Scope) error {
	if sc.Armed && !sc.NeedsLease() {
		return fmt.Errorf("scope %q is armed and needs no lease", sc.Prefix)
	}
	if sc.NeedsLease() && !sc.Armed {
		c.waiting++ // and there are no others
		if _, waits := c.unarmed.at.Get(awaitKey(sc.Owner, sc.Changed, sc.Prefix)); !waits {
			return fmt.Errorf("scope %q does not wait to be armed", sc.Prefix)
		}
	}
	if !heritable(sc) {
		return nil
	}
	of := pair{sc.Owner, sc.Fallback}
	in := c.pairs[of]
	if in == nil {
		in = &inheritance{due: c.due(of)}
		c.pairs[of] = in
	}
	in.prefixes = append(in.prefixes, sc.Prefix)
	if in.due && c.orphaned(sc) {
		return fmt.Errorf("scope %q is owned by %q, which is down, and its fallback %q is live", sc.Prefix, sc.Owner, sc.Fallback)
	}
	return nil
}

// checkEpochs makes sure that no two tenures have the same epoch, and none one
// that is still to be given.
func (c *scopeCheck) checkEpochs() error {
	slices.SortFunc(c.epochs, func(a, b tenure) int { return cmp.Compare(a.epoch, b.epoch) })
	for i, t := range c.epochs {
		if t.epoch == 0 || t.epoch >= max(1, c.cluster.NextEpoch) {
			return fmt.Errorf("scope %q has epoch %d, the next is %d", t.prefix, t.epoch, c.cluster.NextEpoch)
		}
		if i > 0 && c.epochs[i-1].epoch == t.epoch {
			return fmt.Errorf("scopes %q and %q, of which one may be retired, share epoch %d", c.epochs[i-1].prefix, t.prefix, t.epoch)
		}
	}
	return nil
}

// checkHeirs compares what is looked up by node with the scopes.
func (c *scopeCheck) checkHeirs() error {
	for key, prefixes := range c.heirs.byOwner.All() {
		owner, fallback, _ := strings.Cut(string(key), "\x00")
		of := pair{scope.NodeID(owner), scope.NodeID(fallback)}
		var want []scope.Prefix
		if in := c.pairs[of]; in != nil {
			want = in.prefixes
		}
		n := 0
		for p := range keys(prefixes) {
			if n == len(want) || want[n] != p {
				return fmt.Errorf("scope %q is found by its owner %q and fallback %q, which it has not", p, owner, fallback)
			}
			n++
		}
		if n == 0 || n < len(want) {
			return fmt.Errorf("scopes of owner %q and fallback %q: %d are found by them, of %d", owner, fallback, n, len(want))
		}
		if _, both := c.heirs.byFallback.Get(pairKey(of.fallback, of.owner)); !both {
			return fmt.Errorf("the scopes of owner %q and fallback %q are not found by that", owner, fallback)
		}
	}
	if owners, fallbacks := c.heirs.byOwner.Len(), c.heirs.byFallback.Len(); owners != len(c.pairs) || fallbacks != len(c.pairs) {
		return fmt.Errorf("scopes have %d pairs of owner and fallback, found are %d by the one and %d by the other", len(c.pairs), owners, fallbacks)
	}
	return nil
}
