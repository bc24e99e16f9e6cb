package gate

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strconv"

	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/wire"
)

// usePrivate gives the client an upstream connection of its own, which it keeps; false: there is none, and the client has
// been told. All that was sent before has been answered then.
func (c *conn) usePrivate() bool {
	if c.private != nil {
		return true
	}
	c.settle()
	up, err := c.g.store.Dial(c.g.life)
	if err != nil {
		c.refuse(unavailable(err))
		return false
	}
	c.private = c.g.newPipe(up, c)
	c.pipe = c.private
	c.mine.Store(c.private)
	if c.proto == 3 {
		n := &note{swallow: true, keep: true, proto: 3}
		c.sendOwn(slot{note: n}, []byte("HELLO"), []byte("3"))
	}
	return true
}

// dropPrivate ends the connection with all its state. Nothing is under way on it.
func (c *conn) dropPrivate() {
	if c.private == nil {
		return
	}
	c.settle()
	p := c.private
	p.dropped.Store(true)
	_ = p.up.Close()
	<-p.ended
	c.private, c.pipe = nil, nil
	c.mine.Store(nil)
}

// subscriptions is what a private connection is subscribed to, as its reader sees it.
type subscriptions struct {
	channels, shards int64
}

// subscribe sends a change of subscriptions. The store answers with a message for each channel, and messages of
// others come between; so the end is marked by the reply to a PING behind it. The user may have no right to PING: then that
// is an error, see endsChange.
func (c *conn) subscribe(raw []byte) {
	n := &note{marker: []byte(rand.Text())}
	c.send(raw, slot{note: n})
	c.batch.own = appendCommand(c.batch.own, []byte("PING"), n.marker)
	c.flush()
}

// private looks at what came on a private connection; mine: it is the reply to the command whose turn it is.
func (p *pipe) private(text []byte) (mine bool, err error) {
	s := p.q.next(&p.mu)
	marked := s != nil && s.note != nil && s.note.marker != nil
	switch {
	case marked && s.note.endsChange(text):
		p.lock(s.c)
		s.c.box.answered(s.seq)
		p.pop()
		return false, nil
	case marked && (p.subs.note(text) || text[0] == '-'):
		s.note.heard = true
	case p.framer.Kind() == wire.Push:
	case p.listens() && isMessage(text):
	case marked:
		// It is the reply to a command behind: passed on as part of the change, a write would miss its check and stay counted.
		return false, fmt.Errorf("the store sent a reply of type %q before the end of a change of subscriptions", text[0])
	default:
		return true, nil
	}
	p.lock(p.owner)
	p.owner.box.put(text)
	return false, nil
}

// endsChange tells whether text is the reply to the PING behind a change of subscriptions. The change itself has an error as
// its only reply, or none: so another error, or one behind a confirmation, is that of PING.
func (n *note) endsChange(text []byte) bool {
	return n.heard && text[0] == '-' || isMarker(text, n.marker)
}

// isMarker tells whether text is the reply to PING with the marker: in RESP2, while subscribed, an array.
func isMarker(text, marker []byte) bool {
	at := bytes.Index(text, marker)
	if at < 0 || len(text) != at+len(marker)+2 {
		return false
	}
	head := string(appendHead(nil, '$', len(marker)))
	before := string(text[:at])
	return before == head || before == "*2\r\n$4\r\npong\r\n"+head
}

// listens tells whether an array may be a message. In RESP3 messages are pushes, and an array is a reply whatever it begins with:
// BLPOP of a key "message" has one.
func (p *pipe) listens() bool { return p.proto != 3 && (p.subs.channels > 0 || p.subs.shards > 0) }

// isMessage tells whether an array is a message of a subscription.
func isMessage(text []byte) bool {
	if len(text) == 0 || text[0] != '*' {
		return false
	}
	switch name, _, _ := firstText(text); name {
	case "message", "pmessage", "smessage", "sunsubscribe":
		return true
	}
	return false
}

// firstText returns the first element of an array, if it is a short string, and what is behind it.
func firstText(text []byte) (string, []byte, bool) {
	_, rest, ok := bytes.Cut(text, []byte("\r\n"))
	if !ok || len(rest) == 0 || rest[0] != '$' {
		return "", nil, false
	}
	size, rest, ok := bytes.Cut(rest[1:], []byte("\r\n"))
	n, err := strconv.Atoi(string(size))
	if !ok || err != nil || n < 0 || n > 32 || len(rest) < n+2 {
		return "", nil, false
	}
	return string(rest[:n]), rest[n+2:], true
}

// note keeps how many subscriptions there are, which the store says with each change, and tells whether text is such a
// confirmation.
func (s *subscriptions) note(text []byte) bool {
	kind, _, ok := firstText(text)
	at := bytes.LastIndexByte(text, ':')
	if !ok || at < 0 {
		return false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSuffix(text[at+1:], []byte("\r\n"))), 10, 64)
	if err != nil {
		return false
	}
	switch kind {
	case "subscribe", "psubscribe", "unsubscribe", "punsubscribe":
		s.channels = n
	case "ssubscribe", "sunsubscribe":
		s.shards = n
	default:
		return false
	}
	return true
}

// sendParking sends a command that may wait in the store. It is let go when the node may not write, or read, its keys any more.
func (c *conn) sendParking(cmd *commands.Command, args [][]byte, raw []byte, s slot) {
	if !c.usePrivateFor(&s) {
		return
	}
	if cmd.Op == commands.Wait {
		// The store takes for the writes of a connection what was executed before its last command; so there is one.
		c.sendOwn(slot{note: &note{swallow: true}}, []byte("PING"))
	}
	s.note = &note{parks: true}
	c.park = &parked{pipe: c.private, note: s.note}
	for _, k := range c.keys {
		if key := bytes.Clone(args[k.At]); k.Writes {
			c.park.keys = append(c.park.keys, key)
		} else {
			c.park.reads = append(c.park.reads, key)
		}
	}
	c.private.parking.Lock()
	defer c.private.parking.Unlock()
	c.g.parks(c.park)
	c.send(raw, s)
	c.flush()
}

// usePrivateFor is usePrivate with a write that has been admitted already.
func (c *conn) usePrivateFor(s *slot) bool {
	if c.private != nil {
		return true
	}
	// What was sent before must be answered first, and the write would wait for that, counted. It is short.
	kept := append([]byte(nil), c.batch.keys[s.from:s.to]...)
	if !c.usePrivate() {
		if s.class == Write {
			s.w.Done()
		}
		return false
	}
	s.from = uint32(len(c.batch.keys))
	c.batch.keys = append(c.batch.keys, kept...)
	s.to = uint32(len(c.batch.keys))
	return true
}
