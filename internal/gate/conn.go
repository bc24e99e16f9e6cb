package gate

import (
	"bytes"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/wire"
	"github.com/scope-registry/scope-registry/transport/resp"
)

const (
	// minIn and maxIn bound the buffer for a client's commands: an idle client costs little, and a busy one needs few reads.
	// A longer command has a buffer as long as itself.
	minIn = 4 << 10
	maxIn = 64 << 10
	// lastWrite is what a client gets to take its last replies.
	lastWrite = time.Second
)

// conn is a client. One goroutine reads its commands and decides about them; replies come to the outbox from elsewhere.
type conn struct {
	g    *Gate
	sock net.Conn
	nc   net.Conn // the same, or TLS over it
	id   uint64

	in         []byte
	start, end int
	sc         *wire.Scanner
	began      time.Time // when what is in there was read; zero: some of it was sent

	box    outbox
	issued uint64 // commands taken: the number of the last

	pace    *client.Pace
	pipe    *pipe                // the one in use; nil before the first command
	private *pipe                // not nil: it has one of its own, for good
	mine    atomic.Pointer[pipe] // the same, for others
	proto   int                  // 2 or 3
	name    []byte
	quit    bool // it is to be closed once all is answered

	batch batch
	keys  []commands.Key
	owned [][]byte // those that must be
	tx    transaction
	park  *parked // the last command that may wait in the store; nil is none that is under way
	text  []byte  // for errors
}

// batch is what has been decided to send, and was not sent yet.
type batch struct {
	spans [][]byte // commands as they came, many in one piece
	own   []byte   // after those: what the gate has written itself
	slots []slot
	keys  []byte
	tally [classes]uint64 // of the clients' commands among the slots
	said  bool            // replies of the gate were put into the outbox
}

func (g *Gate) newConn(nc net.Conn, id uint64) *conn {
	c := &conn{g: g, sock: nc, nc: nc, id: id, in: make([]byte, minIn), sc: wire.NewScanner(g.limits.Request), proto: 2, pace: g.guard.Pace()}
	c.box.init(nc, nc, g.limits.Hoard, g.run)
	return c
}

// serve takes commands until the client leaves, or the gate does.
func (c *conn) serve() {
	for c.scan() {
		n, err := c.nc.Read(c.in[c.end:])
		if c.end += n; err != nil {
			break
		}
		c.began = time.Now()
		c.pace.Next()
	}
	c.finish()
}

// finish waits for what is under way, also if the client has left: a write counts until its reply.
func (c *conn) finish() {
	c.flush()
	if c.park != nil {
		c.g.abandon(c.park)
	}
	c.settle()
	c.box.drained(lastWrite)
	c.box.close()
	if c.private != nil {
		_ = c.private.up.Close()
		<-c.private.ended
	}
}

// scan decides about every command that is there, and sends them; false: it was the last.
func (c *conn) scan() bool {
	for taken := 0; c.start < c.end && !c.quit; taken++ {
		if taken == c.g.limits.stride {
			taken = 0
			if c.flush(); !c.room() {
				return false
			}
		}
		args, size, err := c.sc.Scan(c.in[c.start:c.end])
		if err != nil {
			c.sayError(err.Error())
			c.quit = true
			break
		}
		if size == 0 {
			break
		}
		raw := c.in[c.start : c.start+size]
		c.start += size
		switch {
		case len(args) == 0:
		case c.sc.Inline():
			c.line(args[0])
		default:
			c.handle(args, raw)
		}
	}
	c.flush()
	c.makeRoom()
	return !c.quit && c.room()
}

// room waits while the client has too many commands under way, or leaves too many replies; false: it has left.
func (c *conn) room() bool {
	defer c.pace.Next()
	return c.box.room(c.issued, c.g.limits.Ahead, c.g.limits.Unsent)
}

// line takes a command that is a line, as somebody types it. It is sent on as an array.
func (c *conn) line(text []byte) {
	args, err := resp.NewReader(bytes.NewReader(append(bytes.Clone(text), '\n')),
		resp.Limits{Args: c.g.limits.Request.Args, ArgLen: len(text), Command: len(text), Inline: len(text) + 1}).Next()
	var bad *resp.ProtocolError
	switch {
	case errors.As(err, &bad):
		c.sayError("ERR " + bad.Error())
		c.quit = true
		return
	case err != nil:
		return // an empty line
	}
	c.handle(args, appendCommand(nil, args...))
}

// appendCommand encodes a command.
func appendCommand(b []byte, args ...[]byte) []byte {
	b = appendHead(b, '*', len(args))
	for _, a := range args {
		b = appendHead(b, '$', len(a))
		b = append(b, a...)
		b = append(b, '\r', '\n')
	}
	return b
}

// makeRoom moves half a command to the front of the buffer, and takes another buffer if this one is too small or needlessly
// large.
func (c *conn) makeRoom() {
	held := c.in[c.start:c.end]
	size := len(c.in)
	switch {
	case c.start == 0 && len(held) == size:
		size = max(2*size, min(len(held)+c.sc.Missing(held), 2*size+maxIn))
	case len(held) == 0 && size > maxIn:
		size = minIn
		c.sc.Shrink()
	case c.end == size && size < maxIn: // a whole buffer was read at once
		size *= 2
	}
	if size != len(c.in) {
		in := make([]byte, size)
		c.start, c.end, c.in = 0, copy(in, held), in
		return
	}
	c.start, c.end = 0, copy(c.in, held)
}

// flush sends what has been decided to send.
func (c *conn) flush() {
	b := &c.batch
	if len(b.slots) > 0 || len(b.own) > 0 {
		v := Sent
		if err := c.push(); err != nil {
			c.unsend(err)
			v = Unavailable
		}
		for class, n := range b.tally {
			if n > 0 {
				c.g.count.commands[class][v].Add(n)
				b.tally[class] = 0
			}
		}
		if !c.began.IsZero() {
			c.g.count.inward.add(time.Since(c.began))
			c.began = time.Time{}
		}
		clear(b.slots)
		b.slots, b.spans, b.keys, b.own = b.slots[:0], b.spans[:0], b.keys[:0], b.own[:0]
	}
	if b.said {
		b.said = false
		c.box.flush()
	}
}

// push sends the batch over the private pipe, or over a shared one, the same as long as it lives: commands of one client
// execute in their order.
func (c *conn) push() error {
	if c.pipe == nil {
		p, err := c.g.place(c).pipe(nil)
		if err != nil {
			return err
		}
		c.pipe = p
	}
	err := c.pipe.push(&c.batch)
	if err == nil || c.private != nil {
		return err
	}
	<-c.pipe.ended // what was sent over it is answered before what comes
	p, err := c.g.place(c).pipe(c.pipe)
	if err != nil {
		return err
	}
	c.pipe = p
	return p.push(&c.batch)
}

// unsend answers what could not be sent. It never executes.
func (c *conn) unsend(err error) {
	c.text = appendError(c.text[:0], unavailable(err))
	for i := range c.batch.slots {
		s := &c.batch.slots[i]
		if s.class == Write {
			s.w.Done()
		}
		if s.note != nil && s.note.swallow {
			continue
		}
		c.box.answer(s.seq, c.text)
	}
	c.batch.said = true
	if c.private != nil {
		c.quit = true // its state is gone
	}
}

func unavailable(err error) error {
	return &client.Error{Code: client.CodeUnavailable, Detail: "the store cannot be reached now, nothing was done: " + err.Error()}
}

// settle sends what is to be sent, and waits until everything is answered.
func (c *conn) settle() {
	c.flush()
	c.box.await(c.issued)
	c.pace.Next()
	c.park = nil
}

// say answers the present command by the gate itself.
func (c *conn) say(text []byte) {
	c.issued++
	c.box.answer(c.issued, text)
	c.batch.said = true
}

// sayError answers with a whole error line, without the dash.
func (c *conn) sayError(line string) {
	c.text = appendLine(append(c.text[:0], '-'), line)
	c.say(c.text)
}

// refuse answers with an error of the guard, or of the gate.
func (c *conn) refuse(err error) {
	c.text = appendError(c.text[:0], err)
	c.say(c.text)
}

// send has a command sent as it came.
func (c *conn) send(raw []byte, s slot) {
	b := &c.batch
	n := len(b.spans)
	if n > 0 && follows(b.spans[n-1], raw) {
		b.spans[n-1] = b.spans[n-1][:len(b.spans[n-1])+len(raw)]
	} else {
		b.spans = append(b.spans, raw)
	}
	c.issued++
	s.c, s.seq = c, c.issued
	b.tally[s.class]++
	b.slots = append(b.slots, s)
}

// follows tells whether b stands behind a in memory, so that both are one piece.
func follows(a, b []byte) bool {
	return len(a)+len(b) <= cap(a) && &a[:len(a)+1][len(a)] == &b[0]
}

// sendOwn sends a command of the gate's own, and all before it; with swallow in its note the client gets no reply.
func (c *conn) sendOwn(s slot, words ...[]byte) {
	b := &c.batch
	b.own = appendCommand(b.own, words...)
	if s.c = c; s.note == nil || !s.note.swallow {
		c.issued++
		s.seq = c.issued
	}
	b.slots = append(b.slots, s)
	c.flush()
}
