package gate

import (
	"bytes"
	"errors"

	"github.com/scope-registry/scope-registry/internal/gate/commands"
)

const (
	// maxHead is what is kept of a reply that the gate itself looks at.
	maxHead = 256
	// maxQueued bounds the keys of one transaction that the gate keeps, bytes.
	maxQueued = 8 << 20
)

var (
	errNested    = errors.New("ERR this command inside MULTI is not taken by the gate")
	errTooLong   = errors.New("ERR the keys of this transaction are more than the 8 MiB that the gate keeps; split it")
	errNoExec    = errors.New("ERR EXEC without MULTI")
	errNoDiscard = errors.New("ERR DISCARD without MULTI")
	arityText    = "ERR wrong number of arguments for '"
)

// transaction is what a client has queued between MULTI and EXEC. The store queues the commands, the gate their keys: all
// are admitted at EXEC as one write. To admit each when it is queued would have a move wait for a client that thinks. Keys that
// are read are asked for again at EXEC, as a slice may be on its way here by then.
type transaction struct {
	open   bool
	dirty  bool   // EXEC does nothing: a command was refused
	keys   []byte // that are written
	reads  []byte // and that are only read
	writes int    // keys
}

// spoil has EXEC fail, as a command was not queued that the client wanted in.
func (t *transaction) spoil() { t.dirty = t.dirty || t.open }

func (t *transaction) end() { *t = transaction{keys: t.keys[:0], reads: t.reads[:0]} }

// transact is a command of the policy Transaction outside of MULTI; the connection is private.
func (c *conn) transact(cmd *commands.Command, args [][]byte, raw []byte) {
	switch {
	case cmd.Op == commands.Multi && len(args) == 1:
		// Only if the store has said yes the next command is queued. If it were not, it would execute unseen.
		c.tx.open = bytes.HasPrefix(c.sendAndSee(raw, slot{}), okReply)
	case cmd.Op == commands.Exec && len(args) == 1:
		c.refuse(errNoExec)
	case cmd.Op == commands.Discard && len(args) == 1:
		c.refuse(errNoDiscard)
	default: // WATCH, UNWATCH, or a wrong number of arguments
		if err := c.classify(cmd, args); err != nil {
			c.refuse(err)
			return
		}
		c.send(raw, slot{class: Read})
	}
}

// queue is a command between MULTI and EXEC.
func (c *conn) queue(cmd *commands.Command, args [][]byte, raw []byte) {
	switch {
	case cmd.Op == commands.Exec && len(args) == 1:
		c.exec(raw)
	case cmd.Op == commands.Discard && len(args) == 1:
		c.tx.end()
		c.closing(raw, slot{})
	case cmd.Op == commands.Exec || cmd.Op == commands.Discard:
		c.tx.spoil()
		c.sayError(arityText + string(bytes.ToLower(args[0])) + "' command")
	case (cmd.Op == commands.Reset || cmd.Op == commands.Quit) && len(args) == 1: // stores do not queue them
		c.tx.end()
		c.session(cmd, args, raw)
	case cmd.Policy == commands.Transaction: // nested: the store says no, or UNWATCH
		c.send(raw, slot{})
	case cmd.Policy == commands.Session && cmd.Op == commands.Select && string(args[len(args)-1]) == "0":
		c.send(raw, slot{})
	case cmd.Policy == commands.Session || cmd.Policy == commands.Subscribe || cmd.Op == commands.Wait:
		c.tx.spoil()
		c.refuse(errNested)
	default:
		c.enqueue(cmd, args, raw)
	}
}

// enqueue has the store queue a command whose keys this node may write now. Whether it may at EXEC is asked then.
func (c *conn) enqueue(cmd *commands.Command, args [][]byte, raw []byte) {
	err := c.classify(cmd, args)
	if err == nil {
		err = c.tx.add(args, c.keys)
	}
	if err == nil && len(c.owned) > 0 {
		// The first key of the transaction stands for all before.
		first := c.owned
		_ = eachKey(c.tx.keys, func(key []byte) error {
			first = append(first, key)
			return errAborted // the first only
		})
		w, refusal := c.pace.AdmitKeys(first)
		if err = refusal; err == nil {
			w.Done() // it was a question
		}
	}
	if err != nil {
		c.tx.spoil()
		c.turnAway(err)
		return
	}
	c.send(raw, slot{})
}

func (t *transaction) add(args [][]byte, keys []commands.Key) error {
	for _, k := range keys {
		key := args[k.At]
		if len(t.keys)+len(t.reads)+len(key) > maxQueued {
			return errTooLong
		}
		if k.Writes {
			t.keys = appendKey(t.keys, key)
			t.writes++
		} else {
			t.reads = appendKey(t.reads, key)
		}
	}
	return nil
}

// exec admits all that was queued as one write, and executes it; or has the store forget it.
func (c *conn) exec(raw []byte) {
	dirty, writes := c.tx.dirty, c.tx.writes
	c.owned = c.owned[:0]
	_ = eachKey(c.tx.keys, func(key []byte) error {
		c.owned = append(c.owned, key)
		return nil
	})
	keys, class := c.tx.keys, Write
	err := eachKey(c.tx.reads, c.g.readable)
	c.tx.end()
	var s slot
	switch {
	case dirty:
		err = errAborted
	case err != nil:
		class = Read
	case writes > 0:
		if s.w, err = c.pace.AdmitKeys(c.owned); err == nil {
			err = c.held(&s.w)
		}
		s.class = Write
	}
	if err != nil {
		c.g.refusedBy(class, err)
		c.closingOwn(slot{note: &note{instead: errorLine(err), keep: true}}, []byte("DISCARD"))
		return
	}
	if s.class == Write && !s.w.Scoped() {
		s.from = uint32(len(c.batch.keys))
		c.batch.keys = append(c.batch.keys, keys...)
		s.to = uint32(len(c.batch.keys))
	}
	c.closing(raw, s)
}

// closing sends EXEC or DISCARD, and makes sure that the store is out of MULTI then. If it is not, nothing more may be sent:
// a write would be queued and acknowledged as such, and execute at a later EXEC that nobody has admitted it for.
func (c *conn) closing(raw []byte, s slot) { c.closed(c.sendAndSee(raw, s)) }

func (c *conn) closingOwn(s slot, words ...[]byte) {
	c.sendOwn(s, words...)
	c.settle()
	c.closed(s.note.head)
}

func (c *conn) closed(head []byte) {
	if len(head) == 0 || head[0] == '-' && !bytes.HasPrefix(head, []byte("-EXECABORT")) && !bytes.HasPrefix(head, []byte("-OUTCOME_UNKNOWN")) {
		c.quit = true
	}
}

// sendAndSee sends a command, waits for the reply, which the client gets, and returns its beginning.
func (c *conn) sendAndSee(raw []byte, s slot) []byte {
	s.note = &note{keep: true}
	c.send(raw, s)
	c.settle()
	return s.note.head
}

// reply is what the client gets, given the store's reply.
func (n *note) reply(text []byte) []byte {
	if n.keep {
		n.head = append([]byte(nil), text[:min(len(text), maxHead)]...)
	}
	if n.instead != nil {
		return n.instead
	}
	if out := n.released.Load(); out != nil && bytes.HasPrefix(text, []byte("-UNBLOCKED")) {
		return *out
	}
	return text
}
