package gate

import (
	"net"
	"sync"
	"time"
)

// keepOut is what an outbox keeps of its buffer, bytes; more was an unusual reply.
const keepOut = 64 << 10

// outbox is what a client gets: replies in the order of its commands, those of the store and those of the gate's own. Either
// may be there first. It is safe for use by many goroutines.
type outbox struct {
	mu       sync.Mutex
	turn     sync.Cond // on mu: done, out or gone changed while somebody waits
	waiting  int
	out      []byte  // to be written
	done     uint64  // how many commands have been answered, all those up to that number
	own      []reply // of the gate, whose turn has not come; in order
	writing  bool    // a goroutine writes, and goes on until out is empty
	gone     bool    // the client is: nothing more is written
	round    uint64  // of the pipe's reader that put something in last
	limit    int     // of out, bytes
	overflow bool    // gone because of that

	sock   net.Conn // what is closed: to close TLS may have to wait
	nc     net.Conn // what is written to
	sender sender
	begin  func(func()) // starts a goroutine that the gate waits for
}

// reply is one of the gate's own.
type reply struct {
	seq  uint64
	text []byte
}

func (o *outbox) init(sock, nc net.Conn, limit int, begin func(func())) {
	o.turn.L = &o.mu
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sock, o.nc, o.limit, o.begin, o.sender = sock, nc, limit, begin, sender{}
	o.sender.of(nc)
}

// put appends to what is written; mu is held.
func (o *outbox) put(text []byte) {
	if o.gone {
		return
	}
	if len(o.out)+len(text) > o.limit && len(o.out) > 0 {
		o.overflow = true
		o.leave()
		return
	}
	o.out = append(o.out, text...)
}

// leave ends the writing for good; mu is held.
func (o *outbox) leave() {
	if !o.gone {
		o.gone, o.out = true, nil
		_ = o.sock.Close()
		o.turn.Broadcast()
	}
}

// close ends the connection, whatever is still to be written.
func (o *outbox) close() {
	o.mu.Lock()
	o.leave()
	o.mu.Unlock()
}

// answered notes that the reply to a command is in, and puts in those of the gate that were waiting for it; mu is held.
func (o *outbox) answered(seq uint64) {
	o.done = seq
	n := 0
	for n < len(o.own) && o.own[n].seq == o.done+1 {
		o.put(o.own[n].text)
		o.done++
		n++
	}
	if n > 0 {
		rest := copy(o.own, o.own[n:])
		clear(o.own[rest:])
		o.own = o.own[:rest]
	}
	if o.waiting > 0 {
		o.turn.Broadcast()
	}
}

// answer puts a reply of the gate in its turn. The text may be used again afterwards.
func (o *outbox) answer(seq uint64, text []byte) {
	o.mu.Lock()
	if o.done+1 == seq {
		o.put(text)
		o.answered(seq)
	} else {
		o.own = append(o.own, reply{seq, append([]byte(nil), text...)})
	}
	o.mu.Unlock()
}

// flush writes what is there, as far as that needs no waiting; a goroutine does the rest.
func (o *outbox) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || o.gone || len(o.out) == 0 {
		return
	}
	n, err := o.sender.send(o.out)
	switch {
	case err != nil:
		o.leave()
		return
	case n == len(o.out):
		o.out = o.out[:0]
		if cap(o.out) > keepOut {
			o.out = nil
		}
		if o.waiting > 0 {
			o.turn.Broadcast()
		}
		return
	}
	o.out = o.out[:copy(o.out, o.out[n:])]
	o.writing = true
	o.begin(o.writeOut)
}

// writeOut writes until nothing is left, and waits for the client meanwhile.
func (o *outbox) writeOut() {
	var free []byte
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.gone && len(o.out) > 0 {
		text := o.out
		o.out = free[:0]
		o.mu.Unlock()
		_, err := o.nc.Write(text)
		o.mu.Lock()
		if free = text; cap(free) > keepOut {
			free = nil
		}
		if err != nil {
			o.leave()
		}
		o.turn.Broadcast()
	}
	o.writing = false
}

// await returns once everything up to seq is answered, or the client is gone and nothing is answered any more: false.
func (o *outbox) await(seq uint64) {
	o.mu.Lock()
	o.waiting++
	for o.done < seq {
		o.turn.Wait()
	}
	o.waiting--
	o.mu.Unlock()
}

// room waits until at most ahead commands before seq wait for replies, and at most unsent bytes for the client, and tells
// whether the client is still there.
func (o *outbox) room(seq uint64, ahead, unsent int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting++
	for !o.gone && (seq-o.done > uint64(ahead) || len(o.out) > unsent) {
		o.turn.Wait()
	}
	o.waiting--
	return !o.gone
}

// drained returns once all is written, or cannot be.
func (o *outbox) drained(within time.Duration) {
	o.flush()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.gone && (o.writing || len(o.out) > 0) {
		_ = o.sock.SetWriteDeadline(time.Now().Add(within))
	}
	o.waiting++
	for !o.gone && (o.writing || len(o.out) > 0) {
		o.turn.Wait()
	}
	o.waiting--
}
