package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

type (
	// Audit is a page of audit records. Next, when not 0, is the From of the next page.
	Audit = api.Audit
	// AuditRecord is one change that somebody asked for, refused ones included.
	AuditRecord = api.AuditRecord
)

// AuditFilter picks audit records; zero values pick all.
type AuditFilter struct {
	From   uint64        // number to begin with; 0 is the oldest that is kept, or with Newest the newest
	Limit  int           // at most this many; 0 is the server's own limit
	Prefix *scope.Prefix // only records about exactly this prefix
	Move   string        // only records about this move
	Newest bool          // newest first
}

// Audit lists one page of who changed what, oldest first unless the filter says otherwise. It is as new as a linearizable read.
func (c *Client) Audit(ctx context.Context, f AuditFilter) (Audit, error) {
	q := values("from", number(f.From), "limit", number(uint64(max(f.Limit, 0))), "move", f.Move, "consistency", "linearizable")
	if f.Prefix != nil {
		q.Set("prefix", f.Prefix.Text())
	}
	if f.Newest {
		q.Set("newest", "true")
	}
	return get[Audit](ctx, c, "/v1/audit", q)
}

// WithReason says why all changes of this client are asked for; it stands in their audit records. At most 1,024 bytes in
// one printable line.
func WithReason(reason string) Option { return func(c *Client) { c.reason = reason } }

// say adds the reason to a request.
func (c *Client) say(req *http.Request) error {
	if c.reason == "" {
		return nil
	}
	if !utf8.ValidString(c.reason) || strings.ContainsFunc(c.reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("the reason %q has something that is not printable; write it in one line", c.reason)}
	}
	req.Header.Set(api.HeaderReason, c.reason)
	return nil
}
