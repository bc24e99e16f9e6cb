package respapi

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// unknownState is the state of a key under no scope.
const unknownState = "unknown"

func routeCommands() []command {
	return []command{
		{name: "SCOPE ROUTE", action: access.Route, args: "<key> [AS <node>] [LINEARIZABLE]", about: "Whether a node may write a key; without AS, who may",
			group: groupRegistry, min: 1, max: 4, run: (*conn).route},
		{name: "SCOPE EXPLAIN", action: access.Explain, args: "<key>", about: "Why a key routes as it does, and which servers and nodes have not seen it yet",
			group: groupRegistry, min: 1, max: 1, run: (*conn).explain},
	}
}

func nowMS() int64 { return time.Now().UnixMilli() }

// route is asked for every write of every store, so it takes no lock but the
// connection's own, and allocates only the text of a refusal.
func (c *conn) route(args [][]byte) error {
	var o api.ReadOptions
	asked := false
	for i := 1; i < len(args); i++ {
		switch {
		case isWord(args[i], "AS") && !asked && i+1 < len(args):
			i++
			asked = true
			if err := c.askAs(args[i]); err != nil {
				return err
			}
		case isWord(args[i], "LINEARIZABLE"):
			o.Consistency = "linearizable"
		default:
			return invalid("'%s' is not known here, given twice or without a value; use AS <node>, LINEARIZABLE", shown(args[i]))
		}
	}
	var st *fsm.State
	var err error
	if o.Consistency == "" {
		st, err = c.srv.reg.Local()
	} else {
		var confirmed fsm.State
		confirmed, err = c.read(o)
		st = &confirmed
	}
	if err != nil {
		return err
	}
	if c.r.Unseen() {
		c.touch(st, args[0])
	}
	if asked {
		c.verdict(st, st.Route(args[0], c.as))
	} else {
		c.owner(st, st.Route(args[0], "").Scope)
	}
	return nil
}

// touchedAhead is how many commands of a pipeline are looked at ahead: what that reads is still in the cache when they are answered.
const touchedAhead = 32

// touch has the table touch the key of a command and those of the commands that have come in behind it.
func (c *conn) touch(st *fsm.State, key []byte) {
	var room [1 + touchedAhead][]byte
	keys := append(room[:0], key)
	c.r.Ahead(touchedAhead, func(args [][]byte) {
		if c.said.begins(args) && len(args) > c.said.n {
			keys = append(keys, args[c.said.n])
		}
	})
	st.Touch(keys)
}

// askAs keeps the id of the node that asks.
func (c *conn) askAs(id []byte) error {
	if string(id) == string(c.as) {
		return nil
	}
	checked, err := nodeID("AS", id)
	if err == nil {
		c.as = scope.NodeID(checked)
	}
	return err
}

// verdict answers a store. Clients parse the two errors byte for byte.
func (c *conn) verdict(st *fsm.State, r scope.Routing) {
	switch r.Verdict {
	case scope.Owned, scope.Unknown:
		c.reply(func(w *resp.Writer) { w.Simple(r.Verdict.String()) })
	case scope.Misdirected, scope.Quiesced:
		refusal := view.ReplyLine(*st, r)
		c.reply(func(w *resp.Writer) { w.Error(refusal) })
	}
}

// owner answers who may write the keys of a scope; nil is no scope.
func (c *conn) owner(st *fsm.State, sc *scope.Scope) {
	c.reply(func(w *resp.Writer) {
		w.Map(7)
		w.BulkString("prefix")
		if sc == nil {
			w.Null()
			sc = &scope.Scope{}
		} else {
			w.BulkString(string(sc.Prefix))
		}
		at, state := sc.Owner, view.Owned
		switch {
		case sc.Owner != "" && st.Held(sc):
			state = view.Held
		case sc.Quiesced != "":
			at, state = sc.Quiesced, view.Quiesced
		case sc.Owner == "":
			state = unknownState
		}
		stringOrNull(w, "owner", string(sc.Owner))
		stringOrNull(w, "addr", st.Addr(at))
		w.BulkString("epoch")
		if sc.Epoch == 0 {
			w.Null()
		} else {
			w.Int(int64(sc.Epoch))
		}
		stringOrNull(w, "state", state)
		stringOrNull(w, "target", string(sc.Quiesced))
		w.BulkString("index")
		w.Int(int64(st.Index()))
	})
}

func stringOrNull(w *resp.Writer, name, value string) {
	w.BulkString(name)
	if value == "" {
		w.Null()
	} else {
		w.BulkString(value)
	}
}

func (c *conn) explain(args [][]byte) error {
	st, err := c.read(api.ReadOptions{})
	if err != nil {
		return err
	}
	e, changed := view.Explain(st, args[0], "", nowMS())
	if e.Scope != nil {
		view.ExplainNodes(st, args[0], &e, c.leading)
		ctx, err := c.request()
		if err != nil {
			return err
		}
		cluster, err := c.srv.reg.Status(ctx, false)
		if err != nil {
			e.Why += fmt.Sprintf(" The other servers could not be asked (%v).", err)
		} else {
			e.Lagging = view.Lagging(cluster.Members, changed)
		}
	}
	c.reply(func(w *resp.Writer) { write(w, explainPairs(e)) })
	return nil
}

func explainPairs(e api.Explain) pairs {
	var prefix any
	state := unknownState
	if e.Scope != nil { // an empty prefix is one
		prefix, state = bytesOf(e.Prefix), e.State
	}
	return pairs{
		{"key", bytesOf(e.Key)}, {"prefix", prefix}, {"owner", given(e.Owner)}, {"addr", given(e.Addr)},
		{"epoch", given(e.Epoch)}, {"state", state}, {"target", given(e.Target)}, {"index", e.Index},
		{"scope", shownAs(e.Scope, scopePairs)}, {"move", shownAs(e.Move, movePairs)},
		{"why", e.Why}, {"lagging", e.Lagging}, {"unseen", e.Unseen},
	}
}
