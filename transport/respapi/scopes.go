package respapi

import (
	"bytes"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/resp"
)

func scopeCommands() []command {
	return []command{
		{name: "SCOPE DECLARE", action: access.DeclareScope, args: "<prefix> WRITER <id> [FALLBACK <id>] [FAILOVER auto|manual] [LEASE auto|always|never] [EPOCH <n>] [SOURCE-FENCED <id> [SOURCE-IDENTITY <identity>]]",
			about: "Declare a scope, or change its options", group: groupRegistry, min: 3, max: anyNumber, run: (*conn).declare},
		{name: "SCOPE RETIRE", action: access.RetireScope, args: "<prefix> [EPOCH <n>] [SOURCE-FENCED <id> [SOURCE-IDENTITY <identity>]]", about: "Retire a scope",
			group: groupRegistry, min: 1, max: anyNumber, run: (*conn).retire},
		{name: "SCOPE GET", action: access.GetScope, args: "<prefix>", about: "One scope", group: groupRegistry, min: 1, max: 1, run: (*conn).getScope},
		{name: "SCOPE LIST", action: access.ListScopes, args: "[MATCH <prefix>] [COUNT <n>] [FROM <prefix>]",
			about: "Scopes by prefix: what to give as FROM for the next page, or null, and an array of scopes",
			group: groupRegistry, max: anyNumber, run: (*conn).listScopes},
	}
}

// apply commits a command that is answered with +OK.
func (c *conn) apply(cmd fsm.Command) error {
	if _, err := c.propose(cmd); err != nil {
		return err
	}
	return c.done()
}

// done answers that all went well.
func (c *conn) done() error {
	c.reply(func(w *resp.Writer) { w.Simple("OK") })
	return nil
}

func (c *conn) propose(cmd fsm.Command) (*fsm.Result, error) {
	ctx, err := c.request()
	if err != nil {
		return nil, err
	}
	return c.srv.reg.Propose(ctx, fsm.Envelope{Actor: c.actor(), Origin: c.origin(), Command: cmd})
}

func (c *conn) declare(args [][]byte) error {
	cmd := &fsm.Declare{Prefix: bytes.Clone(args[0])}
	err := options(args[1:], node("WRITER", &cmd.Writer), node("FALLBACK", &cmd.Fallback), name("FAILOVER", &cmd.Failover),
		name("LEASE", &cmd.Lease), epoch(&cmd.ExpectedEpoch), node("SOURCE-FENCED", &cmd.SourceFenced),
		identity("SOURCE-IDENTITY", &cmd.SourceFencedIdentity))
	if err != nil {
		return err
	}
	if cmd.Writer == "" {
		return invalid("WRITER is missing; name the node that writes '%s'", shown(args[0]))
	}
	return c.apply(cmd)
}

func (c *conn) retire(args [][]byte) error {
	cmd := &fsm.Retire{Prefix: bytes.Clone(args[0])}
	err := options(args[1:], epoch(&cmd.ExpectedEpoch), node("SOURCE-FENCED", &cmd.SourceFenced),
		identity("SOURCE-IDENTITY", &cmd.SourceFencedIdentity))
	if err != nil {
		return err
	}
	return c.apply(cmd)
}

func (c *conn) getScope(args [][]byte) error {
	st, err := c.read(api.ReadOptions{})
	if err != nil {
		return err
	}
	sc, ok := st.Scopes().Get(scope.Prefix(args[0]))
	if !ok {
		return &api.Error{Code: api.NotFound, Detail: "no scope is declared with exactly the prefix '" + shown(args[0]) + "'; SCOPE LIST shows them"}
	}
	out := view.Scope(st, sc)
	out.Settled = view.Settled(st, sc, c.leading)
	c.reply(func(w *resp.Writer) { write(w, scopePairs(out)) })
	return nil
}

// listScopes answers one page, as SCAN does: what the next one begins after,
// and the records.
func (c *conn) listScopes(args [][]byte) error {
	var under, after scope.Prefix
	var limit int
	if err := options(args, raw("MATCH", &under), count(&limit), raw("FROM", &after)); err != nil {
		return err
	}
	st, err := c.read(api.ReadOptions{})
	if err != nil {
		return err
	}
	page := make([]*scope.Scope, 0, limit)
	more := false
	for sc := range st.Scopes().Under(under, after) {
		if more = len(page) == limit; more {
			break
		}
		page = append(page, sc)
	}
	c.reply(func(w *resp.Writer) {
		w.Array(2)
		if more {
			w.BulkString(string(page[limit-1].Prefix))
		} else {
			w.Null()
		}
		w.Array(len(page))
		for _, sc := range page {
			write(w, scopePairs(view.Scope(st, sc)))
		}
	})
	return nil
}
