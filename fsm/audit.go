package fsm

import (
	"encoding/binary"
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

// auditTrail holds the newest records. They are never changed in place.
type auditTrail struct {
	byNumber scope.Index[*AuditRecord] // number, 8 bytes, the high ones first
	last     uint64                    // number of the newest, 0 if there never was one
}

func auditKey(number uint64) scope.Prefix {
	return scope.Prefix(binary.BigEndian.AppendUint64(nil, number))
}

// with returns the trail with one record more, which gets its number.
func (a auditTrail) with(r *AuditRecord) auditTrail {
	a.last++
	r.Number = a.last
	a.byNumber = a.byNumber.With(auditKey(a.last), r)
	if a.last > MaxAudit {
		a.byNumber = a.byNumber.Without(auditKey(a.last - MaxAudit))
	}
	return a
}

// check says what of the trail no log can have built.
func (a auditTrail) check(index uint64) error {
	if want := min(a.last, MaxAudit); uint64(a.byNumber.Len()) != want {
		return fmt.Errorf("%d audit records are held after %d, which are %d", a.byNumber.Len(), a.last, want)
	}
	number, before := a.last-uint64(a.byNumber.Len()), uint64(0)
	for _, r := range a.byNumber.All() {
		number++
		switch {
		case r.GetNumber() != number:
			return fmt.Errorf("audit record %d stands where %d belongs", r.GetNumber(), number)
		case r.GetIndex() < before || r.GetIndex() > index:
			return fmt.Errorf("audit record %d is of index %d, the one before of %d, and the state is at %d", number, r.GetIndex(), before, index)
		}
		before = r.GetIndex()
	}
	return nil
}

// Audit yields the records that are kept, with numbers from a number on, oldest first.
func (s State) Audit(from uint64) iter.Seq[*AuditRecord] {
	return values(s.audit.byNumber.From("", auditKey(max(from, 1)-1)))
}

// AuditNewest yields them newest first.
func (s State) AuditNewest() iter.Seq[*AuditRecord] { return values(s.audit.byNumber.Backward()) }

// AuditOldest is the number of the oldest record that is kept, 0 if there is none.
func (s State) AuditOldest() uint64 {
	for r := range s.Audit(1) {
		return r.GetNumber()
	}
	return 0
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
		Reason: cut(reason, MaxReason), Code: result.GetCode()})
}

// asker names who the origin says asks. What somebody unknown calls himself stands behind the word that he is unknown.
func asker(e Envelope) string {
	who := access.Who{Role: access.Anonymous, ID: strings.TrimPrefix(e.Actor, "anonymous@")}
	if role, err := access.ParseRole(e.Origin.GetRole()); err == nil {
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
