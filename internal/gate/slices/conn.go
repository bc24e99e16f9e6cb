package slices

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

const (
	// silence is how long the store may say nothing while an answer is due: longer than the long commands that stores are
	// configured for, and than a fork of a large one.
	silence = 30 * time.Second
	// slowStore is what a store restores in a second at least, in bytes of a dump: it says nothing meanwhile.
	slowStore = 16 << 20
	// maxBulk bounds a string in an answer: a value that may move.
	maxBulk = client.MaxValue
	// maxItems bounds an array in an answer: a page of a scan has some thousand.
	maxItems = 1 << 20
	// maxDepth bounds arrays in arrays.
	maxDepth = 8
	// bufferSize holds some hundred answers.
	bufferSize = 64 << 10
)

// refusal is an error that the store answered. The connection is as good as before.
type refusal struct{ text string }

func (r *refusal) Error() string { return "the store answered " + r.text }

// reply is one answer, in RESP2 or RESP3.
type reply struct {
	kind  byte
	null  bool
	n     int64  // of an integer; of a string that is too long, its length
	text  []byte // of strings and errors
	items []reply
}

func (r reply) err() error {
	if r.kind == '-' || r.kind == '!' {
		return &refusal{string(r.text)}
	}
	return nil
}

// conn is a connection to the store on which commands are pipelined.
type conn struct {
	up    *upstream.Conn
	in    *bufio.Reader
	out   []byte // commands that were not sent yet
	heavy int64  // bytes of the values that the store has to dump or to restore before it answers
	// endless: nothing may come for as long as nothing happens.
	endless bool

	mu    sync.Mutex // guards woken
	woken bool       // no answer is waited for any more
}

func newConn(up *upstream.Conn) *conn {
	c := &conn{up: up}
	c.in = bufio.NewReaderSize(c, bufferSize)
	return c
}

// Read reads for the buffer.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.patient(); err != nil {
		return 0, err
	}
	return c.up.Read(p)
}

func (c *conn) patient() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.woken:
		return context.Canceled
	case c.endless:
		return c.up.SetDeadline(time.Time{})
	}
	return c.up.SetDeadline(time.Now().Add(silence + time.Duration(c.heavy)*time.Second/slowStore))
}

// bind has the end of ctx end what waits. After release the connection may be used again if that is true.
func (c *conn) bind(ctx context.Context) (release func() bool) {
	return context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.woken = true
		_ = c.up.SetDeadline(time.Unix(1, 0))
	})
}

// add puts a command behind those that are to be sent.
func (c *conn) add(args ...string) {
	c.head(len(args))
	for _, a := range args {
		addBulk(c, a)
	}
}

func (c *conn) head(n int) {
	c.out = append(c.out, '*')
	c.out = strconv.AppendInt(c.out, int64(n), 10)
	c.out = append(c.out, '\r', '\n')
}

func addBulk[T ~string | ~[]byte](c *conn, text T) {
	c.out = append(c.out, '$')
	c.out = strconv.AppendInt(c.out, int64(len(text)), 10)
	c.out = append(c.out, '\r', '\n')
	c.out = append(c.out, text...)
	c.out = append(c.out, '\r', '\n')
}

// writeStep is what a store takes in well within silence: a long value is written in such steps.
const writeStep = 1 << 20

// sendBulk is addBulk of a long text, which is not copied: it is sent, behind all that was added.
func (c *conn) sendBulk(text []byte) error {
	c.out = append(c.out, '$')
	c.out = strconv.AppendInt(c.out, int64(len(text)), 10)
	c.out = append(c.out, '\r', '\n')
	if err := c.flush(); err != nil {
		return err
	}
	for step := range slices.Chunk(text, writeStep) {
		if err := c.patient(); err != nil {
			return err
		}
		if _, err := c.up.Write(step); err != nil {
			return err
		}
	}
	c.out = append(c.out, '\r', '\n')
	return nil
}

// keptOut is the memory that is kept for commands.
const keptOut = 4 << 20

// flush sends what was added.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if err := c.patient(); err != nil {
		return err
	}
	_, err := c.up.Write(c.out)
	if c.out = c.out[:0]; cap(c.out) > keptOut {
		c.out = nil
	}
	return err
}

// ask sends one command and returns the answer, an error of the store as a *refusal.
func (c *conn) ask(args ...string) (reply, error) {
	c.add(args...)
	if err := c.flush(); err != nil {
		return reply{}, err
	}
	r, err := c.read(nil)
	if err != nil {
		return r, err
	}
	return r, r.err()
}

var errProtocol = errors.New("what came is no answer of the Redis protocol")

// read reads one answer. The text of a string is put into buf, if it has room.
func (c *conn) read(buf []byte) (reply, error) { return c.nested(buf, maxDepth) }

func (c *conn) nested(buf []byte, depth int) (reply, error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return reply{}, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return reply{}, fmt.Errorf("%w: a line of %d bytes", errProtocol, len(line))
	}
	r, line := reply{kind: line[0]}, line[1:len(line)-2]
	switch r.kind {
	case '+', '-', '#', ',', '(':
		buf = append(buf[:0], line...)
		r.text = buf
	case '_':
		r.null = true
	case ':', '$', '!', '=', '*', '>', '~', '%':
		if r.n, err = strconv.ParseInt(string(line), 10, 64); err != nil {
			return r, fmt.Errorf("%w: a number that is none", errProtocol)
		}
	default:
		return r, fmt.Errorf("%w: it begins with %q", errProtocol, r.kind)
	}
	switch r.kind {
	case '$', '!', '=':
		return c.bulk(r, buf)
	case '*', '>', '~', '%':
		return c.list(r, depth)
	}
	return r, nil
}

// errLong is a string that is not read; reply.n is its length.
var errLong = errors.New("a value too long to be read")

func (c *conn) bulk(r reply, buf []byte) (reply, error) {
	switch {
	case r.n < 0:
		r.null = true
		return r, nil
	case r.n > maxBulk:
		return r, errLong
	}
	n := int(r.n) + 2
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(c.in, buf); err != nil {
		return r, err
	}
	if buf[n-2] != '\r' || buf[n-1] != '\n' {
		return r, fmt.Errorf("%w: a string does not end where it says", errProtocol)
	}
	r.text = buf[:n-2]
	return r, nil
}

func (c *conn) list(r reply, depth int) (reply, error) {
	n := r.n
	if r.kind == '%' {
		n *= 2
	}
	switch {
	case n < 0:
		r.null = true
		return r, nil
	case n > maxItems || depth == 0:
		return r, fmt.Errorf("%w: too much in one answer", errProtocol)
	}
	for range n {
		item, err := c.nested(nil, depth-1)
		if err != nil {
			return r, err
		}
		r.items = append(r.items, item)
	}
	return r, nil
}

// Upstream is the store behind the gate, which is the gate's alone: [upstream.Store].
type Upstream interface {
	// Dial makes a connection that is ready for use.
	Dial(ctx context.Context) (*upstream.Conn, error)
	// Gone ends a connection at the store, and returns nil once nothing that was sent on it can execute any more.
	Gone(ctx context.Context, c *upstream.Conn) error
}

// link is one connection at a time. What is sent on the second one executes after all that was sent on the first, or instead
// of it. It is used by one goroutine at a time.
type link struct {
	up Upstream
	// reads: what is sent changes nothing, and need not be proved to be over.
	reads bool
	c     *conn
	doubt *upstream.Conn // of which something may still execute
}

// do runs f with the connection. A *refusal, of which f has read what came with it, leaves the connection as it is; any
// other error ends it.
func (l *link) do(ctx context.Context, f func(*conn) error) error {
	if err := l.sure(ctx); err != nil {
		return err
	}
	if l.c == nil {
		up, err := l.up.Dial(ctx)
		if err != nil {
			return err
		}
		l.c = newConn(up)
	}
	release := l.c.bind(ctx)
	err := f(l.c)
	var no *refusal
	if fine := err == nil || errors.As(err, &no); !release() || !fine {
		if !fine && !l.reads {
			l.doubt = l.c.up
		}
		l.close()
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// sure returns once nothing that was sent on an earlier connection can execute any more.
func (l *link) sure(ctx context.Context) error {
	if l.doubt == nil {
		return nil
	}
	if err := l.up.Gone(ctx, l.doubt); err != nil {
		return fmt.Errorf("it is not certain that a lost connection to the store is gone there: %w", err)
	}
	l.doubt = nil
	return nil
}

func (l *link) close() {
	if l.c != nil {
		_ = l.c.up.Close()
		l.c = nil
	}
}

// ask is do with one command.
func (l *link) ask(ctx context.Context, args ...string) (r reply, err error) {
	err = l.do(ctx, func(c *conn) error {
		r, err = c.ask(args...)
		return err
	})
	return r, err
}
