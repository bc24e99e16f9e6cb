package fsm

import (
	"iter"

	"github.com/scope-registry/scope-registry/internal/pb"
)

// MaxAudit bounds the audit records that are kept, the newest ones: they stand in every snapshot.
const MaxAudit = 16 << 10

// AuditRecord is one change that somebody asked for, refused ones included.
type AuditRecord = pb.AuditRecord

// Audit yields the records that are kept, with numbers from a number on, oldest first.
func (s State) Audit(from uint64) iter.Seq[*AuditRecord] {
	return func(func(*AuditRecord) bool) {}
}

// AuditNewest yields them newest first.
func (s State) AuditNewest() iter.Seq[*AuditRecord] {
	return func(func(*AuditRecord) bool) {}
}

// AuditOldest is the number of the oldest record that is kept, 0 if there is none.
func (s State) AuditOldest() uint64 { return 0 }
