package respapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/resp"
)

func moveCommands() []command {
	return []command{
		{name: "MOVE-SCOPE", action: access.StartMove, args: "<prefix> FROM <id> TO <id> [WINDOW <ms>] [TIMEOUT <ms>] [MODE agent|assisted] [PRECOPY] [ASYNC] [ID <id>] [REASON <text>] [EPOCH <n>]",
			about: "Move a scope and wait for the end: OK and the keys moved. ASYNC: the move's id at once",
			group: groupRegistry, min: 5, max: anyNumber, run: (*conn).moveScope},
		{name: "SCOPE MOVES", action: access.ListMoves, args: "[ACTIVE] [COUNT <n>]", about: "Running moves by prefix, then finished ones, newest first",
			group: groupRegistry, max: 3, run: (*conn).listMoves},
		{name: "SCOPE MOVE", action: access.GetMove, args: "<id>", about: "One move, what it waits for and what may be done",
			group: groupRegistry, min: 1, max: 1, run: (*conn).getMove},
	}
}

func (c *conn) moveScope(args [][]byte) error {
	cmd := &fsm.StartMove{Prefix: bytes.Clone(args[0])}
	async := false
	err := options(args[1:], node("FROM", &cmd.From), node("TO", &cmd.To), number("WINDOW", 1, &cmd.WindowMs),
		number("TIMEOUT", 1, &cmd.TimeoutMs), name("MODE", &cmd.Mode), alone("PRECOPY", &cmd.Precopy), alone("ASYNC", &async),
		node("ID", &cmd.Id), text("REASON", &cmd.Reason), epoch(&cmd.ExpectedEpoch))
	if err != nil {
		return err
	}
	if cmd.From == "" || cmd.To == "" {
		return invalid("FROM or TO is missing; name the node that owns '%s' and the one that shall", shown(args[0]))
	}
	if cmd.Id == "" {
		cmd.Id = newMoveID()
	}
	if _, err := c.propose(cmd); err != nil {
		return c.startFailed(err, cmd.Id)
	}
	if async {
		c.reply(func(w *resp.Writer) { w.BulkString(cmd.Id) })
		return nil
	}
	return c.awaitMove(cmd.Id, scope.Prefix(cmd.Prefix))
}

// newMoveID makes the id here, not in the registry: whoever does not learn how
// the start ended has to know what to look for.
func newMoveID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, it ends the process instead
	return "mv-" + hex.EncodeToString(b[:])
}

func (c *conn) startFailed(err error, id string) error {
	var known *api.Error
	if !errors.As(err, &known) || known.Code.Outcome() != api.Unknown {
		return err
	}
	said := *known
	said.Detail += fmt.Sprintf("; whether move %s has started, SCOPE MOVE %s tells", id, id)
	return &said
}

// awaitMove answers when the move has ended.
func (c *conn) awaitMove(id string, prefix scope.Prefix) error {
	ctx, stop := c.whileConnected()
	defer stop()
	for {
		st := c.srv.reg.State()
		m, ok := st.Moves().Get(id)
		switch {
		case !ok:
			return &api.Error{Code: api.OutcomeUnknown, Move: id, Detail: fmt.Sprintf(
				"move %s has started and ended, and is not kept any more; SCOPE EXPLAIN tells who owns %q now", id, prefix)}
		case m.Phase == migration.Done:
			keys := uint64(0)
			if m.Ready != nil {
				keys = m.Ready.Keys
			}
			c.reply(func(w *resp.Writer) { w.Simple(fmt.Sprintf("OK %d", keys)) })
			return nil
		case !m.Running():
			return aborted(st, m)
		}
		if err := c.srv.reg.WaitIndex(ctx, st.Index()+1); err != nil {
			return c.waitEnded(ctx, id, err)
		}
	}
}

// aborted says why a move ended and who has the scope.
func aborted(st fsm.State, m migration.Move) error {
	owner := "nobody"
	if sc, ok := st.Scopes().Get(m.Prefix); ok {
		owner = string(sc.Owner)
	}
	why := m.Cause
	if m.Detail != "" {
		why += ": " + m.Detail
	}
	return &api.Error{Code: api.WrongPhase, Move: m.ID, Owner: owner,
		Detail: fmt.Sprintf("move %s was aborted (%s); %s owns %q", m.ID, why, owner, m.Prefix)}
}

// waitEnded says that the move goes on although nobody waits for it any more.
func (c *conn) waitEnded(ctx context.Context, id string, err error) error {
	c.quit = ctx.Err() != nil
	why := err.Error()
	if c.srv.down.Err() != nil {
		why = "this server is stopping"
	}
	return &api.Error{Code: api.Timeout, Move: id,
		Detail: fmt.Sprintf("stopped waiting for move %s (%s); the move goes on: SCOPE MOVE %s, also on another server", id, why, id)}
}

// listMoves has no pages: the running moves come first, and of the finished
// ones the newest are those that are asked for.
func (c *conn) listMoves(args [][]byte) error {
	var f view.MoveFilter
	var limit int
	if err := options(args, alone("ACTIVE", &f.Running), count(&limit)); err != nil {
		return err
	}
	st, err := c.read(api.ReadOptions{})
	if err != nil {
		return err
	}
	moves := view.Moves(st, f, limit, nowMS())
	c.addProgress(moves)
	c.reply(func(w *resp.Writer) {
		w.Array(len(moves))
		for _, m := range moves {
			write(w, movePairs(m))
		}
	})
	return nil
}

func (c *conn) getMove(args [][]byte) error {
	st, err := c.read(api.ReadOptions{})
	if err != nil {
		return err
	}
	m, ok := st.Moves().Get(string(args[0]))
	if !ok {
		return noMove(args[0])
	}
	out := []api.Move{view.Move(st, m, nowMS())}
	c.addProgress(out)
	c.reply(func(w *resp.Writer) { write(w, movePairs(out[0])) })
	return nil
}

// addProgress adds what the leader has heard of the moves that nodes run. Where
// it does not answer they are shown without.
func (c *conn) addProgress(moves []api.Move) {
	if !slices.ContainsFunc(moves, view.Reported) {
		return
	}
	l, err := c.leading()
	if err != nil {
		return
	}
	for i := range moves {
		view.Progress(&moves[i], l)
	}
}

func noMove(id []byte) error {
	return &api.Error{Code: api.NotFound,
		Detail: fmt.Sprintf("there is no move '%s', or it ended so long ago that it is no longer kept; SCOPE MOVES shows those that are", shown(id))}
}
