package respapi

import (
	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/resp"
)

func nodeCommands() []command {
	return []command{
		{name: "SCOPE NODE SET", args: "<id> <host:port>", about: "Declare a node or change its address",
			group: groupRegistry, min: 2, max: 2, run: (*conn).setNode},
		{name: "SCOPE NODE DEL", args: "<id>", about: "Remove a node that nothing names",
			group: groupRegistry, min: 1, max: 1, run: (*conn).removeNode},
		{name: "SCOPE NODES", about: "All nodes, by id", group: groupRegistry, run: (*conn).listNodes},
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
			w.Map(2)
			w.BulkString("id")
			w.BulkString(string(n.ID))
			w.BulkString("addr")
			w.BulkString(n.Addr)
		}
	})
	return nil
}
