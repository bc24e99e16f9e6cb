package peer

import (
	"bufio"
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// aliveEvery is the time between signs of life when there is nothing else to send. TCP alone takes minutes to
	// notice that the other side is gone, and calls would be handed to a dead connection meanwhile.
	aliveEvery = 3 * time.Second
	// silentFor is how long nothing may arrive before the connection is given up: three signs of life missed.
	silentFor = 10 * time.Second
	// writeWithin bounds one write. A peer that does not read must not hold the calls of others for longer.
	writeWithin = 10 * time.Second

	// maxBatch is how many bytes of waiting frames go out in one write, so that many small calls share a packet.
	maxBatch = 128 << 10
	// readBuffer is the size of the read buffer of a call connection.
	readBuffer = 64 << 10
)

var errSilent = errors.New("nothing was heard from the other side for too long")

// sendState is how far a frame got.
type sendState int

const (
	queued sendState = iota // in memory, can still be withdrawn
	taken                   // handed to the kernel, or about to be: it may arrive
	unsent                  // the connection ended before its last byte was handed to the kernel: it cannot arrive
)

// outgoing is one frame on its way out.
type outgoing struct {
	id      uint64
	code    byte
	payload []byte
	onDone  func() // called once, when the frame is written or never will be; nil for what may be withdrawn

	state sendState // guarded by wire.mu
	at    *list.Element
}

// wire runs one call connection, whichever side dialed it: it writes queued frames, signs of life among them,
// and hands arriving ones to a function. It is over at the first error on either way.
type wire struct {
	conn net.Conn
	ctx  context.Context // ends with the wire; its cause is the first error
	end  context.CancelCauseFunc

	mu    sync.Mutex // guards queue, down and the state of every outgoing
	queue list.List  // of *outgoing, in the order of push
	down  bool       // nothing is taken into the queue any more
	wake  chan struct{}
}

func newWire(ctx context.Context, conn net.Conn) *wire {
	w := &wire{conn: conn, wake: make(chan struct{}, 1)}
	w.ctx, w.end = context.WithCancelCause(ctx)
	return w
}

// push queues a frame. It is false, and the frame unsent, when the wire is down.
func (w *wire) push(o *outgoing) bool {
	w.mu.Lock()
	if w.down {
		o.state = unsent
		w.mu.Unlock()
		o.done()
		return false
	}
	o.at = w.queue.PushBack(o)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return true
}

// withdraw takes a frame back. It is false when the frame may have been sent.
func (w *wire) withdraw(o *outgoing) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.state == queued {
		w.queue.Remove(o.at)
		o.state = unsent
	}
	return o.state == unsent
}

// reached says whether a frame of an ended wire may have arrived.
func (w *wire) reached(o *outgoing) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return o.state == taken
}

func (o *outgoing) done() {
	if o.onDone != nil {
		o.onDone()
	}
}

// run works until the connection ends and returns why. Afterwards the state of every frame is final. onFrame is
// called for every frame but signs of life, one at a time; it reads exactly the frame's payload from r.
func (w *wire) run(onFrame func(h frameHead, r *bufio.Reader) error) error {
	// Ending the context from outside, or by either loop, closes the connection, which ends both.
	stop := context.AfterFunc(w.ctx, func() { _ = w.conn.Close() })
	defer stop()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		w.end(w.writeLoop())
	}()
	w.end(w.readLoop(onFrame))
	_ = w.conn.Close()
	<-wrote
	w.mu.Lock()
	w.down = true
	var left []*outgoing
	for e := w.queue.Front(); e != nil; e = e.Next() {
		o := e.Value.(*outgoing)
		o.state = unsent
		left = append(left, o)
	}
	w.queue.Init()
	w.mu.Unlock()
	for _, o := range left {
		o.done()
	}
	return context.Cause(w.ctx)
}

// readLoop reads frames until the first error.
func (w *wire) readLoop(onFrame func(h frameHead, r *bufio.Reader) error) error {
	r := bufio.NewReaderSize(impatient{w.conn}, readBuffer)
	for {
		h, err := readFrameHead(r)
		if err != nil {
			return err
		}
		if h.code == codeAlive {
			continue
		}
		if err := onFrame(h, r); err != nil {
			return err
		}
	}
}

// impatient is a connection of which every single read has to bring something within silentFor. The limit is on
// silence and not on whole frames, so that a large frame on a slow line has its time.
type impatient struct{ conn net.Conn }

func (i impatient) Read(p []byte) (int, error) {
	if err := i.conn.SetReadDeadline(time.Now().Add(silentFor)); err != nil {
		return 0, err
	}
	n, err := i.conn.Read(p)
	if isTimeout(err) {
		err = fmt.Errorf("%w (%v)", errSilent, silentFor)
	}
	return n, err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// writeLoop writes queued frames until the first error.
func (w *wire) writeLoop() error {
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	var buf []byte
	for {
		batch := w.take()
		if len(batch) == 0 {
			select {
			case <-w.wake:
				continue
			case <-alive.C:
				batch = []*outgoing{{code: codeAlive, state: taken}}
			case <-w.ctx.Done():
				return context.Cause(w.ctx)
			}
		}
		var err error
		if buf, err = w.write(buf[:0], batch); err != nil {
			return err
		}
	}
}

// take removes the next frames from the queue.
func (w *wire) take() (batch []*outgoing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	size := 0
	for e := w.queue.Front(); e != nil && size < maxBatch; e = w.queue.Front() {
		o := e.Value.(*outgoing)
		w.queue.Remove(e)
		o.state = taken
		size += frameHeadSize + len(o.payload)
		batch = append(batch, o)
	}
	return batch
}

// write writes a batch through buf. After an error the frames whose last byte was not handed to the kernel are
// unsent: a frame acts only when it is whole.
func (w *wire) write(buf []byte, batch []*outgoing) ([]byte, error) {
	ends := make([]int, len(batch))
	for i, o := range batch {
		buf = appendFrame(buf, o.id, o.code, o.payload)
		ends[i] = len(buf)
	}
	err := w.conn.SetWriteDeadline(time.Now().Add(writeWithin))
	n := 0
	if err == nil {
		n, err = w.conn.Write(buf)
	}
	if err != nil {
		w.mu.Lock()
		for i, o := range batch {
			if ends[i] > n {
				o.state = unsent
			}
		}
		w.mu.Unlock()
	}
	for _, o := range batch {
		o.done()
	}
	if cap(buf) > 2*maxBatch {
		buf = nil // one large frame must not keep its memory for the life of the connection
	}
	return buf, err
}
