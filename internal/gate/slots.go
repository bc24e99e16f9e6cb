package gate

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/scope-registry/scope-registry/client"
)

// slot is a command that was sent to the store, or is about to be: what becomes of the reply. Replies come in the order of
// the commands.
type slot struct {
	c     *conn
	seq   uint64 // of the client's commands
	w     client.Admitted
	class Class
	// keys are those of a write that no scope holds: where they are in the chunk, see appendKey. Others need no keys for
	// the check before the reply.
	from, to uint32
	note     *note // what is unusual; nil is nothing
}

// note is what is unusual about a command on a private connection. Its plain fields are set before it is sent.
type note struct {
	swallow bool   // the gate's own: the client gets no reply
	instead []byte // what the client gets in place of the reply
	marker  []byte // of a change of subscriptions: all up to the reply with this text belongs to it
	heard   bool   // for the reader: the change was confirmed in part, or refused
	proto   int    // of HELLO: the version that it asks for; 0 is another command
	parks   bool   // it may wait in the store
	keep    bool   // the reply's beginning is kept in head, for the client's goroutine once the reply was passed on
	head    []byte
	// released is what the client gets if the command was released from waiting.
	released atomic.Pointer[[]byte]
}

// chunkSlots is what a chunk holds: as many as a batch of all usual clients, and still small.
const chunkSlots = 256

// chunk is a piece of the queue between those who send commands and the one who reads replies. Who pushes holds the pipe's
// lock; the reader takes over what was pushed under the lock, and works on it without.
type chunk struct {
	slots [chunkSlots]slot
	n     int    // pushed
	keys  []byte // of writes that no scope holds
	next  *chunk
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

func newChunk() *chunk {
	k, _ := chunks.Get().(*chunk)
	return k
}

// free gives a chunk back of which all slots are answered.
func (k *chunk) free() {
	clear(k.slots[:k.n])
	k.n, k.next, k.keys = 0, nil, k.keys[:0]
	if cap(k.keys) > 64<<10 {
		k.keys = nil
	}
	chunks.Put(k)
}

// appendKey keeps a key. Several keys of one write follow each other.
func appendKey(b, key []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(key)))
	return append(b, key...)
}

// eachKey reads what appendKey has written.
func eachKey(b []byte, do func(key []byte) error) error {
	for len(b) > 0 {
		n, head := binary.Uvarint(b)
		end := head + int(n)
		if err := do(b[head:end]); err != nil {
			return err
		}
		b = b[end:]
	}
	return nil
}

// queue is the reader's end of the chunks.
type queue struct {
	head *chunk
	at   int    // next slot to be answered
	seen int    // how many of head's slots were there when it was looked last
	keys []byte // of head, then
}

// next returns the slot that the next reply is for, nil if nothing was sent that has no reply. It stays the first until pop.
// mu guards the pushing end.
func (q *queue) next(mu *sync.Mutex) *slot {
	if q.at == q.seen {
		mu.Lock()
		if q.at == chunkSlots && q.head.next != nil {
			old := q.head
			q.head, q.at = old.next, 0
			old.free()
		}
		q.seen, q.keys = q.head.n, q.head.keys
		mu.Unlock()
		if q.at == q.seen {
			return nil
		}
	}
	return &q.head.slots[q.at]
}

func (q *queue) pop() { q.at++ }
