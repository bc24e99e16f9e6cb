package gate

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/internal/gate/wire"
)

const (
	// maxOut is what a pipe holds for the store, bytes, before those who send have to wait.
	maxOut = 4 << 20
	// keepPipe is what a pipe keeps of a buffer.
	keepPipe = 1 << 20
	// readSize is the buffer for replies: 32 replies of 64 bytes to each of 50 clients fit.
	readSize = 128 << 10
	// minRead is what that of a private connection begins with: there may be as many as clients, and most have little to read.
	minRead = 4 << 10
)

// pipe is an upstream connection: many commands are under way on it, and replies come in their order. One goroutine writes,
// one reads; whoever has a command appends it to the buffer that is written next.
type pipe struct {
	g     *Gate
	up    *upstream.Conn
	owner *conn // whose private connection it is; nil is shared

	mu     sync.Mutex
	room   sync.Cond // on mu: out was taken
	out    []byte    // to be written
	tail   *chunk
	broken error // why it takes nothing any more

	parking  sync.Mutex           // held while a command that may wait is sent, or let go
	dropped  atomic.Bool          // the client goes on without it
	answered atomic.Pointer[note] // the last that may have waited and has been answered

	wake  chan struct{} // holds one: there is something to write
	ended chan struct{} // closed when every command was answered or will not be

	// For the goroutine that reads.
	q         queue
	framer    wire.Framer
	held      []byte  // the beginning of a write's reply that is longer than the buffer
	spilled   bool    // the beginning of the reply has left the buffer
	cur       *conn   // whose outbox is locked
	touched   []*conn // those that got something from what was read last
	round     uint64
	answeredN uint64
	subs      subscriptions
	proto     int // the version of RESP, if it is private and HELLO was answered; 0 is 2
	pace      *client.Pace
	limbo     []client.Admitted // writes of which the store's reply will not come
}

func (g *Gate) newPipe(up *upstream.Conn, owner *conn) *pipe {
	p := &pipe{g: g, up: up, owner: owner, wake: make(chan struct{}, 1), ended: make(chan struct{}), tail: newChunk(), pace: g.guard.Pace()}
	p.room.L = &p.mu
	p.q.head = p.tail
	g.pipes.Add(1)
	g.run(p.read)
	g.run(p.write)
	return p
}

// errBroken is why a pipe takes no commands.
var errBroken = fmt.Errorf("the connection to the store is broken: %w", io.ErrClosedPipe)

// push sends the batch's commands, or returns an error and sends nothing. It waits while too much waits to be written.
func (p *pipe) push(b *batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.out) > maxOut && p.broken == nil {
		p.room.Wait()
	}
	if p.broken != nil {
		return p.broken
	}
	idle := len(p.out) == 0
	for _, s := range b.spans {
		p.out = append(p.out, s...)
	}
	p.out = append(p.out, b.own...)
	p.g.count.sent.Add(uint64(len(b.slots)))
	for i := range b.slots {
		p.enqueue(&b.slots[i], b.keys)
	}
	if idle {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// enqueue notes who gets the next reply; mu is held.
func (p *pipe) enqueue(s *slot, keys []byte) {
	if p.tail.n == chunkSlots {
		p.tail.next = newChunk()
		p.tail = p.tail.next
	}
	k := p.tail
	at := &k.slots[k.n]
	*at = *s
	if s.from < s.to {
		at.from = uint32(len(k.keys))
		k.keys = append(k.keys, keys[s.from:s.to]...)
		at.to = uint32(len(k.keys))
	}
	k.n++
}

// write writes what the clients have appended, all at once.
func (p *pipe) write() {
	var free []byte
	for {
		select {
		case <-p.wake:
		case <-p.ended:
			return
		}
		// Others that have just read commands go first, and theirs go along.
		runtime.Gosched()
		p.mu.Lock()
		text := p.out
		p.out = free[:0]
		p.room.Broadcast()
		p.mu.Unlock()
		if len(text) == 0 {
			continue
		}
		if _, err := p.up.Write(text); err != nil {
			_ = p.up.Close() // wakes the reader, which sees to the rest
		}
		if free = text; cap(free) > keepPipe {
			free = nil
		}
	}
}

// read passes replies on until the connection breaks.
func (p *pipe) read() {
	defer p.g.pipes.Add(-1)
	least := readSize
	if p.owner != nil {
		least = minRead
	}
	buf := make([]byte, least)
	start, end, seen := 0, 0, 0 // seen is how much of the reply at start the framer has
	var err error
	for err == nil {
		var n int
		if n, err = p.up.Read(buf[end:]); n == 0 {
			continue
		}
		end += n
		began, answered := time.Now(), p.answeredN
		p.round = p.g.rounds.Add(1)
		p.pace.Next()
		for start+seen < end && err == nil {
			n, whole, bad := p.framer.Next(buf[start+seen : end])
			if seen += n; bad != nil {
				err = bad
				break
			}
			if whole {
				err = p.reply(buf[start : start+seen])
				start, seen = start+seen, 0
			}
		}
		switch {
		case start == end:
			if len(buf) > keepPipe {
				buf = make([]byte, least)
			} else if end == len(buf) && len(buf) < readSize { // all of it was read at once
				buf = make([]byte, 2*len(buf))
			}
			start, end = 0, 0
		case end < len(buf):
		case start > 0:
			from := buf
			if len(buf) < readSize {
				buf = make([]byte, 2*len(buf))
			}
			start, end = 0, copy(buf, from[start:end])
		case p.spill(buf):
			start, end, seen = 0, 0, 0
		default:
			buf = append(buf, make([]byte, len(buf))...)
		}
		p.g.count.done.Add(p.answeredN - answered)
		p.release()
		p.g.count.outward.add(time.Since(began))
	}
	p.fail(err)
}

// spill passes the beginning of a long reply on, or puts it aside, and tells whether the buffer is free.
func (p *pipe) spill(part []byte) bool {
	s := p.q.next(&p.mu)
	if s == nil || s.note != nil || p.owner != nil {
		return false // what it is shows when all of it is there
	}
	p.spilled = true
	if s.class == Write {
		p.held = append(p.held, part...)
		return true
	}
	p.lock(s.c)
	s.c.box.put(part)
	return true
}

// reply is the end of a reply, or all of it.
func (p *pipe) reply(text []byte) error {
	if p.owner != nil {
		if mine, err := p.private(text); !mine || err != nil {
			return err
		}
	} else if p.framer.Kind() == wire.Push {
		return nil // nobody asked for it on a shared connection
	}
	s := p.q.next(&p.mu)
	if s == nil {
		return fmt.Errorf("the store sent a reply of type %q that nobody had asked for", byte(p.framer.Kind()))
	}
	if len(p.held) > 0 {
		text = append(p.held, text...)
	}
	p.answer(s, text)
	p.pop()
	if p.held = p.held[:0]; cap(p.held) > keepPipe {
		p.held = nil
	}
	p.spilled = false
	return nil
}

// answer passes the store's reply on. A write may be acknowledged only if the node has owned its keys all the time.
func (p *pipe) answer(s *slot, text []byte) {
	if s.class == Write {
		if err := p.check(s); err != nil {
			text = errorLine(err)
			p.g.count.unsure.Add(1)
		}
		s.w.Done()
	}
	if s.note != nil {
		if s.note.proto != 0 && text[0] != '-' {
			p.proto = s.note.proto
		}
		text = s.note.reply(text)
		if s.note.parks {
			p.answered.Store(s.note)
		}
	}
	p.settle(s, text)
}

// check is the last look at a write whose reply is here.
func (p *pipe) check(s *slot) error {
	if s.w.Scoped() {
		return p.pace.Check(&s.w)
	}
	return eachKey(p.q.keys[s.from:s.to], func(key []byte) error { return p.pace.Check(&s.w, key) })
}

func (p *pipe) pop() {
	p.q.pop()
	p.answeredN++
}

// settle gives the client its reply.
func (p *pipe) settle(s *slot, text []byte) {
	if s.note != nil && s.note.swallow {
		return
	}
	p.lock(s.c)
	s.c.box.put(text)
	s.c.box.answered(s.seq)
}

// lock locks the outbox of a client until another is, or release: replies of one client come many at a time.
func (p *pipe) lock(c *conn) {
	if p.cur == c {
		return
	}
	p.unlock()
	c.box.mu.Lock()
	p.cur = c
	if c.box.round != p.round {
		c.box.round = p.round
		p.touched = append(p.touched, c)
	}
}

func (p *pipe) unlock() {
	if p.cur != nil {
		p.cur.box.mu.Unlock()
		p.cur = nil
	}
}

// release sends the clients what they have got.
func (p *pipe) release() {
	p.unlock()
	for i, c := range p.touched {
		c.box.flush()
		p.touched[i] = nil
	}
	p.touched = p.touched[:0]
}

// fail ends the pipe. What is under way is answered, but its writes stay in the count: the store may have them in a buffer,
// and execute them yet.
func (p *pipe) fail(why error) {
	p.mu.Lock()
	p.broken = errBroken
	p.room.Broadcast()
	p.mu.Unlock()
	_ = p.up.Close()
	p.round = p.g.rounds.Add(1)
	lost := 0
	for {
		s := p.q.next(&p.mu)
		if s == nil {
			break
		}
		p.lose(s)
		p.pop()
		lost++
	}
	p.g.count.done.Add(uint64(lost))
	p.release()
	if p.owner != nil && !p.dropped.Load() {
		_ = p.owner.sock.SetReadDeadline(time.Unix(1, 0)) // its state is gone: it gets its answers, and no more
	}
	close(p.ended)
	if lost > 0 || p.owner == nil && p.g.life.Err() == nil {
		p.g.log.Warn("a connection to the store broke", "error", why, "under_way", lost, "writes", len(p.limbo))
	}
	if len(p.limbo) > 0 {
		p.g.bury(p)
	}
}

// lose answers a command whose reply will not come.
func (p *pipe) lose(s *slot) {
	text := lostReply[s.class]
	if s.class == Write {
		p.limbo = append(p.limbo, s.w)
	}
	if p.spilled {
		// A part of the reply is with the client already: nothing else can follow.
		p.lock(s.c)
		s.c.box.leave()
		p.spilled = false
	}
	p.settle(s, text)
}

var lostReply = map[Class][]byte{
	Read:  errorLine(&client.Error{Code: client.CodeUnavailable, Detail: "the connection to the store broke before the answer; ask again"}),
	Write: errorLine(&client.Error{Code: client.CodeOutcomeUnknown, Detail: "the connection to the store broke before it answered; the write may have executed, or may yet: read before writing again"}),
	Other: errorLine(&client.Error{Code: client.CodeOutcomeUnknown, Detail: "the connection to the store broke before it answered; the command may have executed"}),
}

// bury takes the writes of a broken connection out of the count once they cannot execute any more.
func (g *Gate) bury(p *pipe) {
	n := int64(len(p.limbo))
	g.count.limbo.Add(n)
	g.run(func() {
		if err := g.store.Gone(g.life, p.up); err != nil {
			g.log.Error("writes of a broken connection stay counted: whether they can still execute is not known", "writes", n, "error", err)
			return
		}
		for i := range p.limbo {
			p.limbo[i].Done()
		}
		g.count.limbo.Add(-n)
	})
}
