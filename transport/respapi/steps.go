package respapi

import (
	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
)

// stepCommands are what an operator says of a move: all its steps if it is an
// assisted one, the last two of any.
func stepCommands() []command {
	const manifest = "<id> [KEYS <n> BYTES <n> [DIGEST <text>]]"
	return []command{
		{name: "SCOPE QUIESCE", action: access.QuiesceMove, args: "<id>", about: "End the pre-copy of a move: nobody may write the scope",
			group: groupRegistry, min: 1, max: 1, run: (*conn).quiesce},
		{name: "SCOPE SHIPPED", action: access.ShippedMove, args: manifest, about: "The source of a move is closed and all records are shipped",
			group: groupRegistry, min: 1, max: 7, run: (*conn).shipped},
		{name: "SCOPE READY", action: access.ReadyMove, args: manifest, about: "The target of a move holds all records: it becomes the owner",
			group: groupRegistry, min: 1, max: 7, run: (*conn).ready},
		{name: "SCOPE ABORT", action: access.AbortMove, args: "<id> [<reason>]", about: "End a move; the source keeps the scope",
			group: groupRegistry, min: 1, max: anyNumber, run: (*conn).abort},
		{name: "SCOPE CLEANED", action: access.CleanedMove, args: "<id> <reason>", about: "The old copy of a finished move is gone",
			group: groupRegistry, min: 2, max: anyNumber, run: (*conn).cleaned},
	}
}

func (c *conn) quiesce(args [][]byte) error { return c.apply(&fsm.Quiesce{Move: string(args[0])}) }

func (c *conn) shipped(args [][]byte) error {
	m, err := manifest(args[1:])
	if err != nil {
		return err
	}
	return c.apply(&fsm.Shipped{Move: string(args[0]), Manifest: m})
}

func (c *conn) ready(args [][]byte) error {
	m, err := manifest(args[1:])
	if err != nil {
		return err
	}
	return c.apply(&fsm.Ready{Move: string(args[0]), Manifest: m})
}

// manifest reads what sums up the records; nil without a word of it.
func manifest(args [][]byte) (*fsm.Manifest, error) {
	if len(args) == 0 {
		return nil, nil
	}
	m := &fsm.Manifest{}
	err := options(args, number("KEYS", 0, &m.Keys), number("BYTES", 0, &m.Bytes), text("DIGEST", &m.Digest))
	return m, err
}

func (c *conn) abort(args [][]byte) error {
	return c.apply(&fsm.Abort{Move: string(args[0]), Reason: joined(args[1:])})
}

// cleaned makes the command from the move, not from the cleanup that is pending.
func (c *conn) cleaned(args [][]byte) error {
	m, err := c.moveAnywhere(args[0])
	if err != nil {
		return err
	}
	return c.apply(fsm.CleanedAfter(m, joined(args[1:])))
}

// moveAnywhere is the move, also if this server is behind.
func (c *conn) moveAnywhere(id []byte) (migration.Move, error) {
	if m, ok := c.srv.reg.State().Moves().Get(string(id)); ok {
		return m, nil
	}
	st, err := c.read(api.ReadOptions{Consistency: "linearizable"})
	if err != nil {
		return migration.Move{}, err
	}
	m, ok := st.Moves().Get(string(id))
	if !ok {
		return m, noMove(id)
	}
	return m, nil
}
