package fsm

import (
	"fmt"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

// Bounds of the audit.
const (
	// MaxAudit bounds the audit records that are kept, the newest ones: they stand in every snapshot.
	MaxAudit = 16 << 10
	// MaxAuditText bounds each text of a record but for its reason, in bytes: the longest name of who asks fits, and every
	// id. What a refused command brings may be as large as a command.
	MaxAuditText = 256
)

// AuditRecord is one change that somebody asked for, refused ones included.
type AuditRecord = pb.AuditRecord

// auditPage is how many records stand in a page of the trail. A page that is full copies the list of them.
const auditPage = 64

// auditTrail holds the newest records, one after the other. Neither they nor what lists them is ever changed in place: two
// states may be made from one. An ordered index of the numbers, with a record more and one less each time, took most of what
// it costs to apply a small command.
type auditTrail struct {
	full [][]*AuditRecord      // pages, oldest first; the first may begin with records that are not kept any more
	open growing[*AuditRecord] // the newest, fewer than a page
	last uint64                // number of the newest, 0 if there never was one
}

// len is how many records are kept.
func (a auditTrail) len() uint64 { return min(a.last, MaxAudit) }

// stored is how many records are there, with those that are not kept any more.
func (a auditTrail) stored() int { return len(a.full)*auditPage + a.open.n }

// with returns the trail with one record more, which gets its number.
func (a auditTrail) with(r *AuditRecord, by *edit) auditTrail {
	r.Number = a.last + 1
	return a.load(r, by)
}

// load returns the trail with the record that has the next number.
func (a auditTrail) load(r *AuditRecord, by *edit) auditTrail {
	a.last = r.GetNumber()
	if a.open = a.open.with(r, auditPage, by); a.open.n < auditPage {
		return a
	}
	kept := a.full
	if len(kept)*auditPage >= MaxAudit { // with this page, all of the first is one too many
		kept = kept[1:]
	}
	a.full, a.open = inserted(kept, a.open.all()), growing[*AuditRecord]{}
	return a
}

// inserted is a copy of s with v at its end.
func inserted[T any](s []T, v T) []T {
	out := make([]T, len(s)+1)
	copy(out, s)
	out[len(s)] = v
	return out
}

// at is the record with a number, one of those that are kept.
func (a auditTrail) at(number uint64) *AuditRecord {
	i := a.stored() - 1 - int(a.last-number)
	if page := i / auditPage; page < len(a.full) {
		return a.full[page][i%auditPage]
	}
	return a.open.all()[i%auditPage]
}

// check says what of the trail no log can have built.
func (a auditTrail) check(index uint64) error {
	if got := min(uint64(a.stored()), MaxAudit); got != a.len() {
		return fmt.Errorf("%d audit records are held after %d, which are %d", got, a.last, a.len())
	}
	number, before := a.last-a.len(), uint64(0)
	for number < a.last {
		number++
		switch r := a.at(number); {
		case r.GetNumber() != number:
			return fmt.Errorf("audit record %d stands where %d belongs", r.GetNumber(), number)
		case r.GetIndex() < before || r.GetIndex() > index:
			return fmt.Errorf("audit record %d is of index %d, the one before of %d, and the state is at %d", number, r.GetIndex(), before, index)
		default:
			before = r.GetIndex()
		}
	}
	return nil
}

// Audit yields the records that are kept, with numbers from a number on, oldest first.
func (s State) Audit(from uint64) iter.Seq[*AuditRecord] {
	return func(yield func(*AuditRecord) bool) {
		a := s.audit
		for n := max(from, a.last-a.len()+1); n <= a.last && yield(a.at(n)); n++ {
		}
	}
}

// AuditNewest yields them newest first.
func (s State) AuditNewest() iter.Seq[*AuditRecord] {
	return func(yield func(*AuditRecord) bool) {
		a := s.audit
		for n := a.last; n > a.last-a.len() && yield(a.at(n)); n-- {
		}
	}
}

// AuditOldest is the number of the oldest record that is kept, 0 if there is none.
func (s State) AuditOldest() uint64 {
	if s.audit.last == 0 {
		return 0
	}
	return s.audit.last - s.audit.len() + 1
}

// audited notes a command of somebody, refused ones too. The leader's own leave no record, nor does a release that knew no
// origins: its servers must come to the same state. Parts of an upload that follow the first are no deeds of their own: a
// backup has thousands.
func (tx *txn) audited(e Envelope, d deed, result *Result) {
	c, part := e.Command.(*StageBackup)
	if e.Origin == nil || part && c.GetOffset() > 0 && result.GetCode() == "" {
		return
	}
	var prefix []byte
	if len(d.prefixes) == 1 {
		prefix = []byte(d.prefixes[0][:min(len(d.prefixes[0]), scope.MaxPrefixLen)])
	}
	reason := d.reason
	if reason == "" {
		reason = e.Origin.GetReason()
	}
	tx.audit = tx.audit.with(&AuditRecord{
		Index: result.GetIndex(), TimeMs: tx.at.TimeMS, Actor: cut(asker(e), MaxAuditText), Source: cut(e.Origin.GetSource(), MaxAuditText),
		Action: string(d.action), Prefix: prefix, Subject: cut(d.subject, MaxAuditText), Move: cut(d.move, MaxAuditText),
		Reason: cut(reason, MaxReason), Code: result.GetCode()}, tx.edit)
}

// asker names who the origin says asks. What somebody unknown calls himself stands behind the word that he is unknown.
func asker(e Envelope) string {
	who := access.Who{Role: access.Anonymous, ID: strings.TrimPrefix(e.Actor, "anonymous@")}
	if role, ok := access.RoleNamed(e.Origin.GetRole()); ok {
		who = access.Who{Role: role, ID: e.Origin.GetId(), Token: e.Origin.GetToken()}
	}
	return who.String()
}

// cut shortens a text to a number of bytes, and marks that it did.
func cut(text string, limit int) string {
	const mark = "…"
	if len(text) <= limit {
		return text
	}
	end := limit - len(mark)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}

// checkAudit also holds the texts to their bounds.
func (s State) checkAudit() error {
	if err := s.audit.check(s.index); err != nil {
		return err
	}
	for r := range s.Audit(1) {
		for _, text := range []string{r.GetActor(), r.GetSource(), r.GetAction(), r.GetSubject(), r.GetMove(), r.GetCode()} {
			if len(text) > MaxAuditText {
				return fmt.Errorf("audit record %d has a text of %d bytes, the limit is %d", r.GetNumber(), len(text), MaxAuditText)
			}
		}
		if len(r.GetReason()) > MaxReason || len(r.GetPrefix()) > scope.MaxPrefixLen || r.GetAction() == "" {
			return fmt.Errorf("audit record %d (%q) has a reason of %d bytes and a prefix of %d, the limits are %d and %d",
				r.GetNumber(), r.GetAction(), len(r.GetReason()), len(r.GetPrefix()), MaxReason, scope.MaxPrefixLen)
		}
	}
	return nil
}
