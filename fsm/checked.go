package fsm

import (
	"strings"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
)

// HashLen is the length of [State.Hash] in bytes.
const HashLen = 64

// Checked is the last CheckState in the log. Its entry marks the state that it
// leaves: every server hashes that one, while it goes on applying, and the next
// CheckState says which hash a majority found. To compare is no part of the
// transition: a state that differs is one that must not decide anything.
type Checked struct {
	Index uint64 // of its entry; 0: there was none yet
	Of    uint64 // index of the one before, whose state had Hash; 0: it says nothing
	Hash  string
}

// Checked is the last CheckState.
func (s State) Checked() Checked { return s.checked }

func (c Checked) record() *pb.CheckRecord {
	if c == (Checked{}) {
		return nil // a state without one has the hash that it had before there were any
	}
	return &pb.CheckRecord{Index: c.Index, Of: c.Of, Hash: c.Hash}
}

// checkState refuses what is not about the last mark: a leader of the past wrote
// it, and nobody has kept the state that it speaks of.
func (tx *txn) checkState(c *CheckState) *api.Error {
	said := c.GetOf() > 0
	switch {
	case said && c.GetOf() != tx.checked.Index:
		return refuse(api.Invalid, "the check is of the state at index %d, and the last state that was marked is at %d", c.GetOf(), tx.checked.Index)
	case said && (len(c.GetHash()) != HashLen || strings.Trim(c.GetHash(), "0123456789abcdef") != ""):
		return refuse(api.Invalid, "%.100q is not the hash of a state: %d hex digits", c.GetHash(), HashLen)
	case !said && c.GetHash() != "":
		return refuse(api.Invalid, "the check has the hash %.100q of no state", c.GetHash())
	}
	tx.checked = Checked{tx.at.Index, c.GetOf(), c.GetHash()}
	return nil
}
