package respapi

import (
	"context"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
	"github.com/scope-registry/scope-registry/transport/resp"
)

func nodeCommands() []command {
	return []command{
		{name: "SCOPE NODE SET", action: access.SetNode, args: "<id> <host:port>", about: "Declare a node or change its address",
			group: groupRegistry, min: 2, max: 2, run: (*conn).setNode},
		{name: "SCOPE NODE DEL", action: access.RemoveNode, args: "<id>", about: "Remove a node that nothing names",
			group: groupRegistry, min: 1, max: 1, run: (*conn).removeNode},
		{name: "SCOPE NODES", action: access.ListNodes, about: "All nodes with their sessions, by id", group: groupRegistry, run: (*conn).listNodes},
		{name: "SCOPE SESSIONS", action: access.ListSessions, about: "The live sessions and what is left of their leases", group: groupRegistry, run: (*conn).listSessions},
		{name: "SCOPE FENCE", action: access.FenceNode, args: "<id> IDENTITY <identity>", about: "Your word that a node is off: its next session may be of other data",
			group: groupRegistry, min: 3, max: 3, run: (*conn).fence},
	}
}

func (c *conn) setNode(args [][]byte) error {
	id, err := nodeID("id", args[0])
	if err != nil {
		return err
	}
	return c.apply(&fsm.SetNode{Id: id, Addr: string(args[1])})
}

func (c *conn) removeNode(args [][]byte) error {
	id, err := nodeID("id", args[0])
	if err != nil {
		return err
	}
	return c.apply(&fsm.RemoveNode{Id: id})
}

// listNodes has no COUNT: there are fsm.MaxNodes at most, and they are written
// as they are read.
func (c *conn) listNodes([][]byte) error {
	st, err := c.read(api.ReadOptions{})
	if err != nil {
		return err
	}
	c.reply(func(w *resp.Writer) {
		w.Array(st.NodesLen())
		for n := range st.Nodes() {
			write(w, nodePairs(view.NodeState(n)))
		}
	})
	return nil
}

// listSessions has no COUNT either: a node has one session.
func (c *conn) listSessions([][]byte) error {
	st, err := c.read(api.ReadOptions{})
	if err != nil {
		return err
	}
	l, err := c.leading()
	if err != nil {
		l = nil // the leases are null then
	}
	sessions := view.Sessions(st, l)
	c.reply(func(w *resp.Writer) {
		w.Array(len(sessions))
		for _, s := range sessions {
			write(w, sessionPairs(s))
		}
	})
	return nil
}

// leading asks the leader for what only it knows, for a short time: what was
// asked for is shown without it otherwise.
func (c *conn) leading() (*api.Leading, error) {
	ctx, err := c.request()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	l, err := c.srv.reg.Leading(ctx)
	if err != nil {
		return nil, err
	}
	return &l, nil
}

func (c *conn) fence(args [][]byte) error {
	id, err := nodeID("id", args[0])
	if err != nil {
		return err
	}
	cmd := &fsm.FenceNode{Node: id}
	if err := options(args[1:], identity("IDENTITY", &cmd.Identity)); err != nil {
		return err
	}
	return c.apply(cmd)
}
