package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
)

func (s *server) moveRoutes() {
	register(s, "startMove", http.MethodPost, "/v1/moves", "Start to move a scope", s.startMove)
	register(s, "listMoves", http.MethodGet, "/v1/moves", "Running moves by prefix, then finished ones, newest first", s.listMoves)
	register(s, "getMove", http.MethodGet, "/v1/moves/{id}", "One move; wait for its end with wait", s.getMove)
	register(s, "quiesceMove", http.MethodPost, "/v1/moves/{id}/quiesce", "End the pre-copy: the source closes the scope", s.quiesceMove)
	register(s, "shippedMove", http.MethodPost, "/v1/moves/{id}/shipped", "The source is closed and all records are shipped", s.shippedMove)
	register(s, "readyMove", http.MethodPost, "/v1/moves/{id}/ready", "The target holds all records: ownership flips", s.readyMove)
	register(s, "abortMove", http.MethodPost, "/v1/moves/{id}/abort", "End the move; the source keeps the scope", s.abortMove)
	register(s, "cleanedMove", http.MethodPost, "/v1/moves/{id}/cleaned", "The old copy of a finished move is gone", s.cleanedMove)
	register(s, "reportMove", http.MethodPost, "/v1/moves/{id}/progress", "The source of a move says how far it is; nothing of it is logged", s.reportMove)
	register(s, "force", http.MethodPost, "/v1/force", "Give a scope to another node without its owner", s.force)
}

type moveOutput struct{ Body api.Move }

type startMoveInput struct {
	Mutation
	Body api.StartMove
}

func (s *server) startMove(ctx context.Context, in *startMoveInput) (*moveOutput, error) {
	b := in.Body
	p, err := parsePrefix("prefix", b.Prefix)
	if err != nil {
		return nil, err
	}
	if err := checkNode("from", b.From); err != nil {
		return nil, err
	}
	if err := checkNode("to", b.To); err != nil {
		return nil, err
	}
	if b.Mode != "" && b.Mode != "agent" && b.Mode != "assisted" {
		return nil, invalid("mode %s is not known; use agent or assisted", shown(b.Mode))
	}
	res, err := s.propose(ctx, in.Mutation, &fsm.StartMove{Id: b.ID, Prefix: p.Bytes(), From: b.From, To: b.To,
		ExpectedEpoch: b.ExpectedEpoch, Mode: b.Mode, Precopy: b.PreCopy, WindowMs: b.WindowMS, TimeoutMs: b.TimeoutMS, Reason: b.Reason})
	if err != nil {
		return nil, err
	}
	return s.movedOn(res.Move), nil
}

// movedOn is the move after a step of it was applied, as this server's state,
// which has reached that step, shows it.
func (s *server) movedOn(id string) *moveOutput {
	st := s.reg.State()
	m, ok := st.Moves().Get(id)
	if !ok { // a retry of a step of a move that ended so long ago that it is not kept
		return &moveOutput{api.Move{ID: id, Stamps: []api.Stamp{}, Detail: "applied; the move has ended and is no longer kept"}}
	}
	return &moveOutput{view.Move(st, m, nowMS())}
}

// step commits a step of a move.
func (s *server) step(ctx context.Context, m Mutation, id string, cmd fsm.Command) (*moveOutput, error) {
	if _, err := s.propose(ctx, m, cmd); err != nil {
		return nil, err
	}
	return s.movedOn(id), nil
}

type listMovesInput struct {
	ReadParams
	Prefix string `query:"prefix" doc:"Only moves whose prefix overlaps this one"`
	Key    string `query:"key" doc:"Only moves of the scope that holds this key"`
	State  string `query:"state" enum:"running,finished,all" doc:"all if not given"`
	Limit  int    `query:"limit" doc:"1000 if not given, at most 10000"`
}

type movesOutput struct {
	Body struct {
		Index uint64     `json:"index"`
		Moves []api.Move `json:"moves"`
	}
}

func (s *server) listMoves(ctx context.Context, in *listMovesInput) (*movesOutput, error) {
	filter, err := moveFilter(ctx, in)
	if err != nil {
		return nil, err
	}
	limit, err := pageLimit(in.Limit)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	var out movesOutput
	out.Body.Index, out.Body.Moves = st.Index(), view.Moves(st, filter, limit, nowMS())
	return &out, nil
}

func moveFilter(ctx context.Context, in *listMovesInput) (view.MoveFilter, error) {
	f := view.MoveFilter{Running: in.State == "running", Finished: in.State == "finished"}
	if given(ctx, "prefix") {
		p, err := parsePrefix("prefix", in.Prefix)
		if err != nil {
			return f, err
		}
		f.Prefix = &p
	}
	if given(ctx, "key") {
		var err error
		if f.Key, err = parseKey(in.Key); err != nil {
			return f, err
		}
	}
	return f, nil
}

type getMoveInput struct {
	ReadParams
	ID   string `path:"id"`
	Wait int    `query:"wait" doc:"Seconds to wait for the end of the move, at most 60; then the move is shown as it is"`
}

func (s *server) getMove(ctx context.Context, in *getMoveInput) (*moveOutput, error) {
	wait := time.Duration(in.Wait) * time.Second
	if in.Wait < 0 || wait > maxMoveWait {
		return nil, invalid("wait %d is not between 0 and %d seconds", in.Wait, int(maxMoveWait/time.Second))
	}
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	asked := ctx // the wait may be over when the leader is asked
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer untilShutdown(ctx, cancel)()
	for {
		m, ok := st.Moves().Get(in.ID)
		if !ok {
			return nil, noMove(st, in.ID)
		}
		if !m.Running() || s.reg.WaitIndex(ctx, st.Index()+1) != nil {
			if err := callerOf(ctx).still(s.reg.State()); err != nil {
				return nil, err
			}
			s.answeredAt(ctx, st.Index())
			out := view.Move(st, m, nowMS())
			if view.Reported(out) {
				if l, err := s.leading(asked, in.Patience); err == nil { // shown without it otherwise
					view.Progress(&out, l)
				}
			}
			return &moveOutput{out}, nil
		}
		st = s.reg.State()
	}
}

func noMove(st fsm.State, id string) error {
	return &api.Error{Code: api.NotFound, Index: st.Index(),
		Detail: fmt.Sprintf("there is no move %s, or it ended so long ago that it is no longer kept; the list of moves has those that are", shown(id))}
}

type moveStep struct {
	Mutation
	ID string `path:"id"`
}

func (s *server) quiesceMove(ctx context.Context, in *moveStep) (*moveOutput, error) {
	return s.step(ctx, in.Mutation, in.ID, &fsm.Quiesce{Move: in.ID})
}

type manifestInput struct {
	Mutation
	ID   string `path:"id"`
	Body *struct {
		Manifest *api.Manifest `json:"manifest,omitempty"`
		Session  string        `json:"session,omitempty" doc:"Of the node whose word it is, in mode agent; in mode assisted it is the operator's"`
	}
}

// session is checked by the command, which knows the move's mode.
func (in *manifestInput) session() string {
	if in.Body == nil {
		return ""
	}
	return in.Body.Session
}

func (in *manifestInput) manifest() *fsm.Manifest {
	if in.Body == nil || in.Body.Manifest == nil {
		return nil
	}
	m := in.Body.Manifest
	return &fsm.Manifest{Keys: m.Keys, Bytes: m.Bytes, Digest: m.Digest}
}

// checkSession checks a session that may be left out.
func checkSession(id string) error {
	if id == "" {
		return nil
	}
	return checkRandom("session", id)
}

func (s *server) shippedMove(ctx context.Context, in *manifestInput) (*moveOutput, error) {
	if err := checkSession(in.session()); err != nil {
		return nil, err
	}
	return s.step(ctx, in.Mutation, in.ID, &fsm.Shipped{Move: in.ID, Manifest: in.manifest(), Session: in.session()})
}

func (s *server) readyMove(ctx context.Context, in *manifestInput) (*moveOutput, error) {
	if err := checkSession(in.session()); err != nil {
		return nil, err
	}
	return s.step(ctx, in.Mutation, in.ID, &fsm.Ready{Move: in.ID, Manifest: in.manifest(), Session: in.session()})
}

type abortInput struct {
	Mutation
	ID   string `path:"id"`
	Body *struct {
		Reason  string `json:"reason,omitempty"`
		Session string `json:"session,omitempty" doc:"Of the source or target, whose word it is; empty: the operator's"`
	}
}

func (s *server) abortMove(ctx context.Context, in *abortInput) (*moveOutput, error) {
	cmd := &fsm.Abort{Move: in.ID}
	if in.Body != nil {
		cmd.Reason, cmd.Session = in.Body.Reason, in.Body.Session
	}
	if err := checkSession(cmd.Session); err != nil {
		return nil, err
	}
	return s.step(ctx, in.Mutation, in.ID, cmd)
}

type cleanedInput struct {
	Mutation
	ID   string `path:"id"`
	Body struct {
		Reason  string  `json:"reason,omitempty" doc:"Why the old copy is known to be gone: the node is off, or runs no agent; needed without a session"`
		Session string  `json:"session,omitempty" doc:"Of the node that has deleted the copy, which then names the cleanup"`
		Node    string  `json:"node,omitempty"`
		Prefix  *string `json:"prefix,omitempty" doc:"Text form of bytes"`
		Epoch   uint64  `json:"epoch,omitempty" doc:"Of the tenure that ended"`
	}
}

func (s *server) cleanedMove(ctx context.Context, in *cleanedInput) (*moveOutput, error) {
	cmd, err := s.cleanedBy(ctx, in)
	if err != nil {
		return nil, err
	}
	return s.step(ctx, in.Mutation, in.ID, cmd)
}

// cleanedBy is a node's word about the cleanup that it names, or the operator's
// about the one that the move has left.
func (s *server) cleanedBy(ctx context.Context, in *cleanedInput) (*fsm.Cleaned, error) {
	b := in.Body
	named := b.Node != "" || b.Prefix != nil || b.Epoch != 0
	switch {
	case b.Session == "" && named:
		return nil, invalid("node, prefix and epoch are a node's words, with its session; without one give a reason alone")
	case b.Session == "" && b.Reason == "":
		return nil, invalid("reason is empty; say why the old copy is known to be gone")
	case b.Session == "":
		return s.cleanedAfter(ctx, in.ID, b.Reason)
	case b.Prefix == nil:
		return nil, invalid("prefix is missing; a node's word names node, prefix and epoch of the cleanup that it has done, as the watch shows it")
	case b.Epoch == 0:
		return nil, invalid("epoch is missing; a node's word names node, prefix and epoch of the cleanup that it has done, as the watch shows it")
	}
	if err := errors.Join(checkNode("node", b.Node), checkSession(b.Session)); err != nil {
		return nil, err
	}
	p, err := parsePrefix("prefix", *b.Prefix)
	if err != nil {
		return nil, err
	}
	return &fsm.Cleaned{Node: b.Node, Prefix: p.Bytes(), Epoch: b.Epoch, Move: in.ID, Session: b.Session, Reason: b.Reason}, nil
}

// cleanedAfter makes the command from the move alone, not from the cleanup that
// is pending: a retry must be the same command when the first try was applied.
func (s *server) cleanedAfter(ctx context.Context, id, reason string) (*fsm.Cleaned, error) {
	st := s.reg.State()
	m, ok := st.Moves().Get(id)
	if !ok { // this server may be behind
		var err error
		if st, err = s.read(ctx, ReadParams{Consistency: "linearizable"}); err != nil {
			return nil, err
		}
		if m, ok = st.Moves().Get(id); !ok {
			return nil, noMove(st, id)
		}
	}
	return fsm.CleanedAfter(m, reason), nil
}

type reportInput struct {
	Patience
	ID   string `path:"id"`
	Body struct {
		Move      string `json:"move,omitempty" doc:"That of the path, if given"`
		Session   string `json:"session" doc:"Of the source"`
		Keys      uint64 `json:"keys" doc:"Shipped so far"`
		Bytes     uint64 `json:"bytes"`
		KeysLeft  uint64 `json:"keys_left" doc:"As the source estimates"`
		BytesLeft uint64 `json:"bytes_left"`
		Early     bool   `json:"early,omitempty" doc:"A little later much less will be left: the scope is not closed yet"`
	}
}

type reportedOutput struct {
	Body struct {
		Index uint64 `json:"index"`
	}
}

// reportMove is no entry of the log, and so has no request id: the next report
// replaces it.
func (s *server) reportMove(ctx context.Context, in *reportInput) (*reportedOutput, error) {
	b := in.Body
	if b.Move != "" && b.Move != in.ID {
		return nil, invalid("the body's move %s is not the path's %s; leave it out of the body", shown(b.Move), shown(in.ID))
	}
	if err := checkRandom("session", b.Session); err != nil {
		return nil, err
	}
	ctx, cancel := in.bound(ctx)
	defer cancel()
	err := s.reg.Report(ctx, api.Report{Move: in.ID, Session: b.Session, Keys: b.Keys, Bytes: b.Bytes, KeysLeft: b.KeysLeft, BytesLeft: b.BytesLeft,
		Early: b.Early, As: callerOf(ctx).node()})
	if err != nil {
		return nil, err
	}
	var out reportedOutput
	out.Body.Index = s.reg.State().Index()
	return &out, nil
}

type forceInput struct {
	Mutation
	Body api.Force
}

func (s *server) force(ctx context.Context, in *forceInput) (*appliedBody, error) {
	b := in.Body
	p, err := parsePrefix("prefix", b.Prefix)
	if err != nil {
		return nil, err
	}
	if err := checkNode("to", b.To); err != nil {
		return nil, err
	}
	if err := checkFenced("", b.SourceFenced, b.SourceFencedIdentity); err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.Force{Prefix: p.Bytes(), To: b.To, ExpectedEpoch: b.ExpectedEpoch,
		AcceptLoss: b.AcceptLoss, SourceFenced: b.SourceFenced, SourceFencedIdentity: b.SourceFencedIdentity, Reason: b.Reason})
}
