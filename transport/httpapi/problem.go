package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
)

// problemType is the media type of RFC 9457.
const problemType = "application/problem+json"

// problem is an api.Error as RFC 9457 wants it.
type problem struct {
	Type          string      `json:"type"`
	Title         string      `json:"title"`
	Status        int         `json:"status"`
	Detail        string      `json:"detail" doc:"What is wrong, with the value, and what to do"`
	Code          api.Code    `json:"code"`
	Outcome       api.Outcome `json:"outcome" doc:"Whether a mutation may have been applied: 'not applied' or 'unknown'"`
	Owner         string      `json:"owner,omitempty"`
	Epoch         uint64      `json:"epoch,omitempty"`
	Move          string      `json:"move,omitempty"`
	ConflictsWith string      `json:"conflicts_with,omitempty" doc:"Text form of bytes"`
	Floor         uint64      `json:"floor,omitempty"`
	Index         uint64      `json:"index,omitempty"`
	Warnings      []string    `json:"warnings,omitempty"`
}

// Error is "CODE: detail".
func (p *problem) Error() string { return string(p.Code) + ": " + p.Detail }

// GetStatus is the HTTP status of the reply.
func (p *problem) GetStatus() int { return p.Status }

// ContentType is the media type of the reply.
func (p *problem) ContentType(string) string { return problemType }

// problemOf is the problem of err. An error without a code is our fault.
func problemOf(err error) *problem {
	var e *api.Error
	if !errors.As(err, &e) {
		e = &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%v; look at the server's log, and retry with the same request id only", err)}
	}
	return &problem{
		Type:   "urn:scope-registry:error:" + string(e.Code),
		Title:  strings.ToLower(strings.ReplaceAll(string(e.Code), "_", " ")),
		Status: e.Code.HTTPStatus(), Detail: access.Hide(e.Detail), Code: e.Code, Outcome: e.Code.Outcome(),
		Owner: e.Owner, Epoch: e.Epoch, Move: e.Move, ConflictsWith: e.ConflictsWith,
		Floor: e.Floor, Index: e.Index, Warnings: e.Warnings,
	}
}

func invalid(format string, args ...any) error {
	return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf(format, args...)}
}

// writeProblem answers with p, for handlers outside huma.
func writeProblem(w http.ResponseWriter, p *problem) {
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone
}

// embedded is huma's context under a name that its method Context leaves free.
type embedded = huma.Context

// humaContext lets toProblem change the status that huma chose.
type humaContext struct {
	embedded
	status int // 0: huma's own
}

// Unwrap is how huma's adapters find their own context.
func (c *humaContext) Unwrap() huma.Context { return c.embedded }

// SetStatus writes the header.
func (c *humaContext) SetStatus(code int) {
	if c.status != 0 {
		code = c.status
	}
	c.embedded.SetStatus(code)
}

// enter looks who asks, before anything of the body is read.
func (s *server) enter(ctx huma.Context, next func(huma.Context)) {
	r := replyOf(ctx.Context())
	leave, err := s.admit(r, access.Action(ctx.Operation().OperationID))
	if err != nil {
		r.refuse(err)
		return
	}
	defer leave()
	next(&humaContext{embedded: ctx})
}

// toProblem turns huma's own errors into problems. They all come before the
// handler runs (ours are problems already), so nothing was applied. Doing it
// here leaves huma's package-wide error constructor as it is.
func toProblem(ctx huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := problemOf(modelError(m, secret(ctx.Operation().OperationID)))
	if c, ok := ctx.(*humaContext); ok {
		c.status = p.Status
	}
	return p, nil
}

// secret reports whether the body of an operation holds secrets, or what takes the place of one.
func secret(operation string) bool {
	return operation == openSession || operation == string(access.CreateToken)
}

// modelError repeats what was wrong, but not of a body that holds secrets: huma
// gives the whole body for a field that it lacks.
func modelError(m *huma.ErrorModel, secret bool) *api.Error {
	if m.Status == http.StatusRequestEntityTooLarge {
		return &api.Error{Code: api.TooLarge, Detail: fmt.Sprintf("the body has %d bytes or more; send less at once", MaxBody)}
	}
	said := make([]string, 0, len(m.Errors))
	for _, d := range m.Errors {
		if d == nil {
			continue
		}
		text := d.Message
		if d.Location != "" {
			text = d.Location + ": " + text
		}
		if !secret && d.Value != nil && d.Value != "" {
			text += ", got " + shown(d.Value)
		}
		said = append(said, text)
	}
	detail := m.Detail
	if len(said) > 0 {
		detail += ": " + strings.Join(said, "; ")
	}
	return &api.Error{Code: api.Invalid, Detail: detail + "; see /openapi.json"}
}

// shownLen bounds the value an error repeats.
const shownLen = 200

func shown(v any) string {
	text, ok := v.(string)
	if !ok {
		data, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprintf("a %T", v)
		}
		text = string(data)
	}
	text = access.Hide(text) // before it is cut
	if len(text) > shownLen {
		text = strings.ToValidUTF8(text[:shownLen], "") + "…"
	}
	return fmt.Sprintf("%q", text)
}
