package httpapi

import (
	"context"
	"crypto/sha256"
	"net/http"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
	"github.com/scope-registry/scope-registry/scope"
)

func (s *server) sessionRoutes() {
	register(s, "listSessions", http.MethodGet, "/v1/sessions", "The live sessions and what is left of their leases", s.listSessions)
	register(s, openSession, http.MethodPost, "/v1/nodes/{id}/session", "Open a session: the right of one process to speak for its node", s.openSession)
	register(s, "renewSession", http.MethodPut, "/v1/sessions/{sid}", "Renew the lease of a session", s.renewSession)
	register(s, "closeSession", http.MethodDelete, "/v1/sessions/{sid}", "Close a session: its holder admits nothing any more and has drained", s.closeSession)
}

// openSession is the operation whose body holds secrets.
const openSession = "openSession"

type sessionsOutput struct{ Body api.Sessions }

func (s *server) listSessions(ctx context.Context, in *struct{ ReadParams }) (*sessionsOutput, error) {
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	out := api.Sessions{Index: st.Index()}
	l, err := s.leading(ctx, in.Patience)
	if err != nil {
		out.NoLeases = err.Error()
	} else {
		out.Leader = l.Leader
	}
	out.Sessions = view.Sessions(st, l)
	return &sessionsOutput{out}, nil
}

// leading asks the leader for what only it knows, for a short time: what is
// asked for is shown without it otherwise.
func (s *server) leading(ctx context.Context, p Patience) (*api.Leading, error) {
	ctx, cancel := context.WithTimeout(ctx, p.leaderTime())
	defer cancel()
	defer untilShutdown(ctx, cancel)()
	l, err := s.reg.Leading(ctx)
	if err != nil {
		return nil, err
	}
	return &l, nil
}

type openInput struct {
	Mutation
	ID   string `path:"id"`
	Body api.OpenSession
}

type openedOutput struct{ Body api.Opened }

func (s *server) openSession(ctx context.Context, in *openInput) (*openedOutput, error) {
	cmd, err := openOf(in.ID, in.Body)
	if err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, in.Mutation, cmd)
	if err == nil {
		return s.opened(cmd.Session, res.Index, res.Warnings), nil
	}
	code := api.CodeOf(err)
	if code != api.Exists && code != api.SessionBusy {
		return nil, err
	}
	// Whoever draws a session's id gives it to one open only. So if the node's
	// session has it, an earlier try of this body opened it, under another
	// request id, and only its answer was lost.
	st := s.reg.State()
	n, ok := st.Node(scope.NodeID(in.ID))
	if !ok || n.Session.ID != cmd.Session || n.Identity != cmd.Identity {
		return nil, err
	}
	s.answeredAt(ctx, st.Index())
	return s.opened(cmd.Session, n.Session.Opened, nil), nil
}

// openOf turns the body into its command. Of tokens only the hashes go on from
// here: the log is kept, copied and shown.
func openOf(id string, b api.OpenSession) (*fsm.OpenSession, error) {
	if err := checkNode("id", id); err != nil {
		return nil, err
	}
	if err := checkRandom("session", b.Session); err != nil {
		return nil, err
	}
	if err := checkRandom("identity", b.Identity); err != nil {
		return nil, err
	}
	hash, err := tokenHash("token", b.Token)
	if err != nil {
		return nil, err
	}
	cmd := &fsm.OpenSession{Node: id, Identity: b.Identity, Session: b.Session, TokenHash: hash,
		Incarnation: b.Incarnation, IncarnationTag: b.Tag, View: b.View}
	if b.PreviousToken != "" {
		cmd.PreviousTokenHash, err = tokenHash("previous_token", b.PreviousToken)
	}
	return cmd, err
}

// tokenHash never repeats the token.
func tokenHash(field, token string) ([]byte, error) {
	if len(token) < MinToken || len(token) > MaxToken {
		return nil, invalid("%s has %d bytes; give %d to %d bytes that nobody can guess", field, len(token), MinToken, MaxToken)
	}
	hash := sha256.Sum256([]byte(token))
	return hash[:], nil
}

func (s *server) opened(session string, index uint64, warnings []string) *openedOutput {
	l := s.reg.Leases()
	return &openedOutput{api.Opened{Session: session, Opened: index, RenewMS: l.Renew.Milliseconds(), LeaseMS: l.Lease.Milliseconds(), Warnings: warnings}}
}

type renewInput struct {
	Patience
	SID  string `path:"sid"`
	Body struct {
		Session string `json:"session,omitempty" doc:"That of the path, if given"`
		View    uint64 `json:"view_index" doc:"Index that the node's view has reached"`
	}
}

type renewedOutput struct{ Body api.Renewed }

// renewSession is no entry of the log, and so has no request id: it may be
// repeated.
func (s *server) renewSession(ctx context.Context, in *renewInput) (*renewedOutput, error) {
	if err := sessionOf(in.SID, in.Body.Session); err != nil {
		return nil, err
	}
	ctx, cancel := in.bound(ctx)
	defer cancel()
	out, err := s.reg.Renew(ctx, api.Renewal{Session: in.SID, View: in.Body.View, As: callerOf(ctx).node()})
	s.metrics.renewed(err)
	if err != nil {
		return nil, err
	}
	return &renewedOutput{out}, nil
}

// sessionOf checks the session of a path and the one that the body may repeat.
func sessionOf(sid, body string) error {
	if err := checkRandom("sid", sid); err != nil {
		return err
	}
	if body != "" && body != sid {
		return invalid("the body's session %s is not the path's %q; leave it out of the body", shown(body), sid)
	}
	return nil
}

type closeInput struct {
	Mutation
	SID string `path:"sid"`
}

func (s *server) closeSession(ctx context.Context, in *closeInput) (*appliedBody, error) {
	if err := checkRandom("sid", in.SID); err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.CloseSession{Session: in.SID})
}
