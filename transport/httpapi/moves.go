package httpapi

import (
	"context"
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
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer untilShutdown(ctx, cancel)()
	for {
		m, ok := st.Moves().Get(in.ID)
		if !ok {
			return nil, noMove(st, in.ID)
		}
		if !m.Running() || s.reg.WaitIndex(ctx, st.Index()+1) != nil {
			s.answeredAt(ctx, st.Index())
			return &moveOutput{view.Move(st, m, nowMS())}, nil
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
	}
}

func (in *manifestInput) manifest() *fsm.Manifest {
	if in.Body == nil || in.Body.Manifest == nil {
		return nil
	}
	m := in.Body.Manifest
	return &fsm.Manifest{Keys: m.Keys, Bytes: m.Bytes, Digest: m.Digest}
}

func (s *server) shippedMove(ctx context.Context, in *manifestInput) (*moveOutput, error) {
	return s.step(ctx, in.Mutation, in.ID, &fsm.Shipped{Move: in.ID, Manifest: in.manifest()})
}

func (s *server) readyMove(ctx context.Context, in *manifestInput) (*moveOutput, error) {
	return s.step(ctx, in.Mutation, in.ID, &fsm.Ready{Move: in.ID, Manifest: in.manifest()})
}

type abortInput struct {
	Mutation
	ID   string `path:"id"`
	Body *struct {
		Reason string `json:"reason,omitempty"`
	}
}

func (s *server) abortMove(ctx context.Context, in *abortInput) (*moveOutput, error) {
	cmd := &fsm.Abort{Move: in.ID}
	if in.Body != nil {
		cmd.Reason = in.Body.Reason
	}
	return s.step(ctx, in.Mutation, in.ID, cmd)
}

type cleanedInput struct {
	Mutation
	ID   string `path:"id"`
	Body struct {
		Reason string `json:"reason" doc:"Why the old copy is known to be gone: the node is off, or runs no agent"`
	}
}

// cleanedMove makes the command from the move alone, not from the cleanup that
// is pending: a retry must be the same command when the first try was applied.
func (s *server) cleanedMove(ctx context.Context, in *cleanedInput) (*moveOutput, error) {
	if in.Body.Reason == "" {
		return nil, invalid("reason is empty; say why the old copy is known to be gone")
	}
	st := s.reg.State()
	m, ok := st.Moves().Get(in.ID)
	if !ok { // this server may be behind
		var err error
		if st, err = s.read(ctx, ReadParams{Consistency: "linearizable"}); err != nil {
			return nil, err
		}
		if m, ok = st.Moves().Get(in.ID); !ok {
			return nil, noMove(st, in.ID)
		}
	}
	return s.step(ctx, in.Mutation, in.ID, fsm.CleanedAfter(m, in.Body.Reason))
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
	if err := checkNodes("source_fenced", b.SourceFenced); err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.Force{Prefix: p.Bytes(), To: b.To, ExpectedEpoch: b.ExpectedEpoch,
		AcceptLoss: b.AcceptLoss, SourceFenced: b.SourceFenced, Reason: b.Reason})
}
