package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/scope"
)

const (
	// shipRecords and shipBytes bound a batch, but for a single record that is bigger:
	// enough that the way there and back does not count, and little enough that one
	// is staged well within a try.
	shipRecords = 1_000
	shipBytes   = 1 << 20

	// tryTime bounds one try to send a batch, so that a connection that has died
	// silently is left while there is still time for another one. A record that is
	// bigger than a batch gets more, at slowest bytes a second.
	tryTime = time.Second
	slowest = 1 << 20

	// giveUp is how long a closed scope's records may not get through: nobody writes
	// it meanwhile, and of the default window of 5 s something must be left to say
	// that the move aborts. Views differ by much less.
	giveUp = 2 * time.Second
	// slowPatience is how long a batch may take that has got there: its store is at
	// work, or its process stands still. The move's window bounds it too, which the
	// operator may choose for a slow store.
	slowPatience = 30 * time.Second
	// copyPatience is the same while the scope is open, which costs nobody a write: a
	// target that is away for longer has lost its session, and the move aborts anyway.
	copyPatience = 10 * time.Second

	// firstRetry is the wait after a first try that did not get there: a view that
	// lags does so by milliseconds. It doubles up to maxRetry.
	firstRetry = 2 * time.Millisecond
	maxRetry   = 100 * time.Millisecond

	// firstChunk is what is allocated for a stream's first records, and doubles up to
	// maxChunk: most slices are small.
	firstChunk = 4 << 10
	maxChunk   = 256 << 10
	// largeRecord is from where on a record is sent alone from where the store has it,
	// and the store waits until it got there: a copy of it, and the next one beside it,
	// would take too much memory.
	largeRecord = 16 << 20
)

// delivery is one stream of batches to the target of a move. While a batch is on
// its way the next one is filled. It is used by one goroutine at a time.
type delivery struct {
	slice    Slice
	to       scope.NodeID
	send     Send
	addr     func(scope.NodeID) string
	patience time.Duration

	id     string
	number uint64 // of the batch that is being filled
	batch  []Record
	bytes  int    // of it
	chunk  []byte // where its keys and values lie

	// queue are the batches that are full and of which it is not known that they got
	// there, in order. While flight is not nil they belong to its goroutine, which
	// sends them, and ends with a value in flight.
	queue  []*Batch
	flight chan error
	dead   error // why no more of the stream can be sent; as queue
}

// brokenStream says that the target does not know the stream (any more).
type brokenStream struct{ error }

func (b brokenStream) Unwrap() error { return b.error }

// add puts a copy of the record into the stream; it may get there later. It does so
// even if it fails: then with the rest, if the stream is not dead and goes on.
func (x *delivery) add(ctx context.Context, r Record) (err error) {
	n := len(r.Key) + len(r.Value)
	if n >= largeRecord {
		return x.addLarge(ctx, r)
	}
	if len(x.batch) > 0 && (len(x.batch) == shipRecords || x.bytes+n > shipBytes) {
		err = x.push(ctx, nil)
	}
	r.Key, r.Value = x.copied(r.Key), x.copied(r.Value)
	x.batch = append(x.batch, r)
	x.bytes += n
	return err
}

// addLarge sends a large record, and copies it only if it did not get there.
func (x *delivery) addLarge(ctx context.Context, r Record) (err error) {
	if len(x.batch) > 0 {
		err = x.push(ctx, nil)
	}
	r.Key = x.copied(r.Key)
	x.batch, x.bytes = []Record{r}, len(r.Key)+len(r.Value)
	err = either(err, x.push(ctx, nil))
	err = either(err, x.wait())
	if n := len(x.queue); n > 0 && x.dead == nil { // the last one is this
		x.queue[n-1].Records[0].Value = bytes.Clone(r.Value)
	}
	return err
}

// copied lies in memory that is not used again: whoever takes the batch may keep
// its records.
func (x *delivery) copied(p []byte) []byte {
	if cap(x.chunk)-len(x.chunk) < len(p) {
		x.chunk = make([]byte, 0, max(len(p), firstChunk, min(2*cap(x.chunk), maxChunk)))
	}
	at := len(x.chunk)
	x.chunk = append(x.chunk, p...)
	return x.chunk[at:len(x.chunk):len(x.chunk)]
}

// push begins to send what was added, and waits for the batch before. With a
// manifest it is the last batch, and sent though it may be empty.
func (x *delivery) push(ctx context.Context, last *Manifest) error {
	b := &Batch{Slice: x.slice, Stream: x.id, Number: x.number, Records: x.batch}
	if last != nil {
		b.Last, b.Sum = true, *last
	}
	x.number++
	x.batch, x.bytes = nil, 0
	err := x.wait()
	x.queue = append(x.queue, b)
	if err == nil {
		x.start(ctx)
	}
	return err
}

// start goes on to send what is queued.
func (x *delivery) start(ctx context.Context) {
	if x.flight != nil || len(x.queue) == 0 {
		return
	}
	x.flight = make(chan error, 1)
	go func() { x.flight <- x.deliverAll(ctx) }()
}

// wait returns what became of the batches on their way. Whoever used the stream
// waits before it lets go of it.
func (x *delivery) wait() error {
	if x.flight == nil {
		return x.dead
	}
	err := <-x.flight
	x.flight = nil
	return err
}

func (x *delivery) deliverAll(ctx context.Context) error {
	for len(x.queue) > 0 {
		if err := x.deliver(ctx, x.queue[0]); err != nil {
			return err
		}
		x.queue[0] = nil // or the array behind the queue holds a large value that is there already
		x.queue = x.queue[1:]
	}
	return nil
}

// deliver sends one batch until it gets there. It ends with the cause of ctx, and
// the batch can be sent again, or with why the stream is dead.
func (x *delivery) deliver(ctx context.Context, b *Batch) error {
	extra := time.Duration(max(0, b.weight()-2*shipBytes)) * time.Second / slowest
	began, pause := time.Now(), firstRetry
	for {
		to := Peer{Node: string(x.to), Addr: x.addr(x.to)}
		slow, err := x.try(ctx, to, b, tryTime+extra)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch answerOf(err) {
		case goOn:
			return nil
		case beginAnew:
			x.dead = brokenStream{fmt.Errorf("node %q at %s has lost the stream: %w", x.to, to.Addr, err)}
		case giveItUp:
			x.dead = fmt.Errorf("node %q at %s does not take the records: %w", x.to, to.Addr, err)
		case waitForRoom:
			began = time.Now() // the others get there; the move's window and timeout bound it
		case sendAgain:
			patience := x.patience
			if slow {
				patience = max(patience, slowPatience)
			}
			if time.Since(began) >= patience+extra {
				x.dead = fmt.Errorf("node %q at %s took no records for %v: %w", x.to, to.Addr, time.Since(began).Round(time.Millisecond), err)
			}
		}
		if x.dead != nil {
			return x.dead
		}
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
		pause = min(2*pause, maxRetry)
	}
}

// try reports whether the time for it was over: the target may be at work then.
func (x *delivery) try(ctx context.Context, to Peer, b *Batch, most time.Duration) (slow bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	err = x.send(ctx, to, b)
	return errors.Is(ctx.Err(), context.DeadlineExceeded), err
}

// newStreamID draws 128 random bits.
func newStreamID() string { return rand.Text() }
