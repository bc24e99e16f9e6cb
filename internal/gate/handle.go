package gate

import (
	"bytes"
	"errors"
	"slices"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

// errReserved refuses the gate's own keys.
var errReserved = errors.New("ERR keys that begin with " + upstream.Reserved + " are the gate's own")

var reserved = []byte(upstream.Reserved)

// handle decides about one command: it is sent, or answered.
func (c *conn) handle(args [][]byte, raw []byte) {
	if c.park != nil {
		// What waits in the store may wait for long. A write behind it would count all the time, whatever its scope.
		c.settle()
	}
	cmd, known := c.g.commands.Find(args)
	switch {
	case !known:
		c.g.count.commands[Other][Unknown].Add(1)
		c.tx.spoil()
		c.sayError(c.g.commands.Unknown(args))
	case cmd.Policy == commands.Refuse:
		c.g.count.commands[Other][Refused].Add(1)
		c.tx.spoil()
		c.sayError(cmd.Why)
	case c.tx.open:
		c.queue(cmd, args, raw)
	case cmd.Private && !c.usePrivate():
	case cmd.Policy == commands.Transaction:
		c.transact(cmd, args, raw)
	case cmd.Policy == commands.Subscribe:
		c.subscribe(raw)
	case cmd.Policy == commands.Session:
		c.session(cmd, args, raw)
	default:
		c.forward(cmd, args, raw)
	}
}

// forward sends a command that reads or writes keys, or touches none.
func (c *conn) forward(cmd *commands.Command, args [][]byte, raw []byte) {
	s, err := c.admit(cmd, args)
	switch {
	case err != nil:
		c.turnAway(err)
	case cmd.Blocks && cmd.MayPark(args):
		c.sendParking(cmd, args, raw, s)
	default:
		c.send(raw, s)
	}
}

// turnAway refuses a command for its keys.
func (c *conn) turnAway(err error) {
	class := Read
	if slices.ContainsFunc(c.keys, func(k commands.Key) bool { return k.Writes }) {
		class = Write
	}
	c.g.refusedBy(class, err)
	c.refuse(err)
}

// admit decides by the keys: what comes out of it counts, if it writes, and has to be sent.
func (c *conn) admit(cmd *commands.Command, args [][]byte) (s slot, err error) {
	if err := c.classify(cmd, args); err != nil {
		return s, err
	}
	switch {
	case len(c.owned) == 1:
		s.w, err = c.pace.Admit(c.owned[0])
	case len(c.owned) > 1:
		s.w, err = c.pace.AdmitKeys(c.owned)
	case len(c.keys) > 0:
		s.class = Read
		return s, nil
	default:
		return s, nil
	}
	if err == nil {
		err = c.held(&s.w)
	}
	if err != nil {
		return s, err
	}
	s.class = Write
	if !s.w.Scoped() {
		s.from = uint32(len(c.batch.keys))
		for _, key := range c.owned {
			c.batch.keys = appendKey(c.batch.keys, key)
		}
		s.to = uint32(len(c.batch.keys))
	}
	return s, nil
}

// classify finds the command's keys: those that must be owned are in c.owned then. Its error is what the client is told.
func (c *conn) classify(cmd *commands.Command, args [][]byte) (err error) {
	c.owned = c.owned[:0]
	if cmd.Policy == commands.Ask {
		c.keys, err = c.g.ask(c.keys[:0], args)
	} else {
		c.keys, err = cmd.AppendKeys(c.keys[:0], args)
	}
	if err != nil {
		return err
	}
	for _, k := range c.keys {
		key := args[k.At]
		if len(key) >= len(reserved) && key[0] == reserved[0] && bytes.HasPrefix(key, reserved) {
			return errReserved
		}
		if k.Writes {
			c.owned = append(c.owned, key)
		} else if err := c.g.readable(key); err != nil {
			return err
		}
	}
	return nil
}

// readable says why a key may not be read here now, nil if it may.
func (g *Gate) readable(key []byte) error {
	if err := g.guard.Serves(key); err != nil {
		return err
	}
	if g.holds(key) {
		return errHeld
	}
	return nil
}

// errHeld refuses keys where a slice is staged or wiped. It passes by itself, as QUIESCED does.
var errHeld = &client.Error{Code: client.CodeQuiesced, Detail: "records that came here are being staged or deleted under the key; nobody reads or writes it"}

// held takes a write back that was admitted for keys, those in c.owned, where a slice is staged or wiped. It is asked after the
// guard: a staging begins only while the node may not write there, so that one that begins later does not meet the write.
func (c *conn) held(w *client.Admitted) error {
	if !slices.ContainsFunc(c.owned, c.g.holds) {
		return nil
	}
	w.Done()
	*w = client.Admitted{}
	return errHeld
}

// ask has the store say which keys a command has that the table does not know well enough.
func (g *Gate) ask(dst []commands.Key, args [][]byte) ([]commands.Key, error) {
	words := []string{"COMMAND", "GETKEYSANDFLAGS"}
	for _, a := range args {
		words = append(words, string(a))
	}
	reply, err := g.store.Ask(g.life, words...)
	var no *upstream.RefusedError
	switch {
	case errors.As(err, &no):
		return dst, errors.New(no.Text) // it has no keys, or is none
	case err != nil:
		return dst, unavailable(err)
	}
	for _, item := range reply.Items {
		if len(item.Items) != 2 {
			return dst, errors.New("ERR the store does not say which keys the command has")
		}
		var flags []string
		for _, f := range item.Items[1].Items {
			flags = append(flags, f.Text)
		}
		// The reply has the key's text; any argument of that text does.
		at := -1
		for i := 1; i < len(args); i++ {
			if string(args[i]) == item.Items[0].Text {
				at = i
				break
			}
		}
		if at < 0 {
			return dst, errors.New("ERR the store names a key that is no argument of the command")
		}
		dst = append(dst, commands.Key{At: at, Writes: !commands.ReadsKey(flags)})
	}
	return dst, nil
}
