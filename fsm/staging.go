package fsm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Bounds of a restore.
const (
	// MaxBackup bounds a backup in bytes: as large as that of MaxScopes scopes
	// gets. While it is restored every server holds it in memory and in its log.
	MaxBackup = 1 << 30
	// StagePart bounds one part of it, which is one log entry: large enough that
	// a million scopes are a few hundred, small enough beside [MaxEntry].
	StagePart = 512 << 10
	// MaxIncarnation bounds the number of an incarnation: JSON readers know larger
	// ones only roughly, and there must be room for the next one.
	MaxIncarnation = 1<<53 - 1
)

// staging is a backup on its way into the log. It is a value: parts is never
// changed in place.
//
// A backup is put back by the log, in parts and then by one command, and not by
// raft.Raft.Restore: that replaces the leader's state before anybody else has
// it, so that a leader that dies then comes back with a history of its own.
type staging struct {
	id    string
	size  uint64
	parts [][]byte
}

func (g staging) with(id string, data []byte) staging {
	parts := make([][]byte, 0, len(g.parts)+1)
	return staging{id, g.size + uint64(len(data)), append(append(parts, g.parts...), data)}
}

func (g staging) reader() io.Reader {
	all := make([]io.Reader, 0, len(g.parts))
	for _, p := range g.parts {
		all = append(all, bytes.NewReader(p))
	}
	return io.MultiReader(all...)
}

// Staged is the upload of a backup that is under way, and how many bytes of it
// are in the log; "" if there is none.
func (s State) Staged() (id string, bytes uint64) { return s.staged.id, s.staged.size }

func (tx *txn) stageBackup(c *StageBackup) *api.Error {
	if err := checkRandom("upload id", c.GetId()); err != nil {
		return err
	}
	g := tx.staged
	switch n := len(c.GetData()); {
	case n == 0 || n > StagePart:
		return refuse(api.Invalid, "a part of a backup has %d bytes; it needs 1 to %d", n, StagePart)
	case c.GetOffset() == 0:
		g = staging{} // what another upload left is of no use to anybody
	case g.id != c.GetId():
		return refuse(api.WrongPhase, "upload %q of a backup was dropped: another restore began, or it stood still; restore again", c.GetId())
	case g.size != c.GetOffset():
		return refuse(api.WrongPhase, "upload %q has %d bytes, and the part begins at %d; restore again", c.GetId(), g.size, c.GetOffset())
	case g.size+uint64(n) > MaxBackup:
		return refuse(api.TooLarge, "the backup has more than %d bytes, which is the limit", MaxBackup)
	}
	tx.staged = g.with(c.GetId(), c.GetData())
	return nil
}

func (tx *txn) dropBackup(c *DropBackup) *api.Error {
	if g := tx.staged; g.id != c.GetId() || c.GetBytes() != 0 && g.size != c.GetBytes() {
		return refuse(api.WrongPhase, "upload %q with %d bytes is not under way", c.GetId(), c.GetBytes())
	}
	tx.staged = staging{}
	return nil
}

// restore puts the staged backup in the place of the state. Whatever it refuses
// follows from what the log holds alone; a backup that cannot be read stops the
// server, see [txn.unknown].
func (tx *txn) restore(c *Restore) (*Result, *api.Error) {
	now := tx.cluster
	if now.Incarnation == c.GetIncarnation() && now.Tag == c.GetTag() && now.Tag != now.ID {
		return &Result{}, nil // by an earlier try of the same restore
	}
	switch {
	case now.ID == "":
		return nil, refuse(api.WrongPhase, "the cluster has no id yet; try again")
	case c.GetIncarnation() <= now.Incarnation:
		return nil, refuse(api.StaleEpoch, "a restore begins a new incarnation; the cluster is in %d and %d was given: give a number above any that it was ever in",
			now.Incarnation, c.GetIncarnation())
	case c.GetIncarnation() > MaxIncarnation:
		return nil, refuse(api.Invalid, "incarnation %d is above the limit of %d", c.GetIncarnation(), MaxIncarnation)
	case tx.staged.id != c.GetId() || tx.staged.size != c.GetBytes() || c.GetBytes() == 0:
		return nil, refuse(api.WrongPhase, "upload %q with %d bytes is not what is staged: another restore began, or it stood still; restore again", c.GetId(), c.GetBytes())
	}
	sum := sha256.New()
	_, _ = io.Copy(sum, tx.staged.reader()) // neither of them fails
	if !bytes.Equal(sum.Sum(nil), c.GetSha256()) {
		return nil, refuse(api.Corrupt, "the backup has SHA-256 %x, and %x was announced; restore again", sum.Sum(nil), c.GetSha256())
	}
	back, _, err := LoadBackup(tx.staged.reader())
	if err != nil {
		// The server that proposed this has read the very same bytes.
		tx.unknown = fmt.Errorf("the backup that is restored cannot be read by this release: %w", err)
		return nil, refuse(api.Corrupt, "%v", tx.unknown)
	}
	return tx.putBack(back, c)
}

// putBack is restore from where the backup is read.
func (tx *txn) putBack(back State, c *Restore) (*Result, *api.Error) {
	if want := back.cluster.ID; want != tx.cluster.ID && want != c.GetFromCluster() || c.GetFromCluster() != "" && want != c.GetFromCluster() {
		return nil, refuse(api.Invalid, "the backup is of cluster %q, this one is %q; if the nodes and scopes of that cluster are meant to be served by this one, "+
			"say so with the id of that one (--from-cluster), given was %q", want, tx.cluster.ID, c.GetFromCluster())
	}
	// Indexes never go back ◆: nodes and clients count on from the highest they saw,
	// and records of the backup name indexes of their own. So where the log is
	// younger than the backup, the state counts on from that one.
	index := max(tx.at.Index, back.index+1)
	next, events, err := back.restored(Restoration{Incarnation: c.GetIncarnation(), Tag: c.GetTag(), Complete: c.GetComplete(), TimeMS: tx.at.TimeMS,
		Index: index, Base: index - (tx.at.Index - tx.base), Cluster: tx.cluster.ID, NextEpoch: tx.cluster.NextEpoch})
	if err != nil {
		return nil, err
	}
	next.servers = tx.servers // of this cluster
	next = next.accessOf(tx.State, index)
	tx.State, tx.events, tx.orphans, tx.at.Index = next, events, nil, index
	return &Result{Changed: uint64(next.scopes.Len() + next.NodesLen())}, nil
}

// accessOf returns the state of a backup with what is about this cluster and not about its scopes: who may ask, who asked,
// and what its servers know. A token that was revoked since must not come back ◆, and who may ask now must not be locked
// out. Only a cluster that never had a token takes those of the backup, and its audit if that tells more: what a new cluster
// has is hardly more than this upload.
func (s State) accessOf(now State, index uint64) State {
	if now.tokens.first != 0 || now.audit.last >= s.audit.last {
		s.audit = now.audit
	}
	if now.tokens.first != 0 {
		s.tokens = now.tokens
		s.tokens.changed = index
	}
	s.logFormat = max(s.logFormat, now.logFormat) // whoever reads the backup knows its format
	return s
}
