package view

import (
	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// Token is a token without its secret, at a time of the wall clock.
func Token(t fsm.Token, nowMS int64) api.Token {
	out := api.Token{ID: t.ID, Role: t.Role.String(), Node: string(t.Node), ExpiresMS: t.ExpiresMS,
		Expired: t.ExpiresMS != 0 && nowMS >= t.ExpiresMS, Created: t.Created, CreatedMS: t.CreatedMS, CreatedBy: t.CreatedBy}
	if t.Prefix != "" {
		out.Prefix = t.Prefix.Text()
	}
	return out
}

// AuditFilter picks audit records; nil and "" pick all.
type AuditFilter struct {
	Prefix *scope.Prefix // exactly this one
	Move   string
	// From is the number to begin with, 0 the first there is; with Newest the records go down from it.
	From   uint64
	Newest bool
}

// Audit is one page of at most limit records.
func Audit(st fsm.State, f AuditFilter, limit int) api.Audit {
	out := api.Audit{Index: st.Index(), Oldest: st.AuditOldest(), Records: []api.AuditRecord{}}
	records := st.Audit(f.From)
	if f.Newest {
		records = st.AuditNewest()
	}
	for r := range records {
		switch {
		case f.Newest && f.From != 0 && r.GetNumber() > f.From:
			continue
		case f.Prefix != nil && (scope.Prefix(r.GetPrefix()) != *f.Prefix || !ofScope(r)):
			continue
		case f.Move != "" && r.GetMove() != f.Move:
			continue
		case len(out.Records) == limit:
			out.Next = r.GetNumber()
			return out
		}
		out.Records = append(out.Records, auditRecord(r))
	}
	return out
}

// ofScope reports whether a record without a prefix is about the empty one, and not about nothing that has one.
func ofScope(r *fsm.AuditRecord) bool {
	switch access.Action(r.GetAction()) {
	case access.DeclareScope, access.RetireScope, access.ReleaseScope, access.Force:
		return true
	}
	return len(r.GetPrefix()) > 0 || r.GetMove() != ""
}

func auditRecord(r *fsm.AuditRecord) api.AuditRecord {
	out := api.AuditRecord{Number: r.GetNumber(), Index: r.GetIndex(), TimeMS: r.GetTimeMs(), Actor: r.GetActor(), Source: r.GetSource(),
		Action: r.GetAction(), Subject: r.GetSubject(), Move: r.GetMove(), Reason: r.GetReason(), Code: api.Code(r.GetCode())}
	if len(r.GetPrefix()) > 0 {
		out.Prefix = scope.Prefix(r.GetPrefix()).Text()
	}
	return out
}
