package respapi

import (
	"container/list"
	"context"
	"errors"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// conn is one connection. It has one goroutine, serve, and a second one while
// it is subscribed or a command waits for the end of a move. What is not said
// to be otherwise belongs to serve.
type conn struct {
	srv   *Server
	nc    net.Conn
	id    int64
	host  string // where the client is, without its port
	since time.Time
	r     *resp.Reader
	ahead []byte // read while a command waited; given to r before anything else

	silent *list.Element // place in Server.silent, or nil; guarded by Server.mu
	heldBy access.Who    // whom it is counted for, or nobody; guarded by Server.mu

	// known is by whom commands are given, certified what it was before a token was shown.
	known     atomic.Pointer[caller]
	certified *caller

	said     spelling      // of the last command
	answered int           // commands as c.command that went well and are not in its metric yet
	as       scope.NodeID  // that SCOPE ROUTE was last asked for: it is the same one each time
	sub      *subscription // nil: not subscribed
	unsent   int           // answers held back

	patience  context.Context // of commands that may wait, for which it lasts until patient
	patient   time.Time
	impatient context.CancelFunc
	quit      bool // no further command is read

	// Shown to other connections by CLIENT LIST.
	about    atomic.Pointer[profile]
	command  atomic.Pointer[command] // the last one
	lastRead atomic.Int64            // nanoseconds since 1970

	mu      sync.Mutex // guards the rest while there is a subscription: a message must not stand inside an answer
	w       *resp.Writer
	writeBy time.Time // the deadline that is set
}

// profile is what a client says of itself. It is replaced, never changed.
type profile struct {
	name, lib, libVersion string
	proto                 int
	subscribed            bool
}

func newConn(s *Server, nc net.Conn, id int64) *conn {
	c := &conn{srv: s, nc: nc, id: id, host: hostOf(nc), since: time.Now()}
	c.certified, c.impatient = nobody, func() {}
	c.known.Store(c.certified)
	c.r, c.w = resp.NewReader(c, resp.StrangerLimits()), resp.NewWriter(c)
	c.about.Store(&profile{proto: 2})
	c.lastRead.Store(c.since.UnixNano())
	return c
}

// describe changes what is known of the client.
func (c *conn) describe(change func(*profile)) {
	next := *c.about.Load()
	change(&next)
	c.about.Store(&next)
}

// serve answers commands, one after the other, until the connection ends.
func (c *conn) serve() {
	defer c.end()
	defer c.caught()
	if err := c.secure(); err != nil {
		c.srv.metrics.refused.WithLabelValues("tls").Inc()
		c.srv.log.Debug("connection refused", "from", c.nc.RemoteAddr(), "cause", err)
		return
	}
	c.certified = c.known.Load()
	counted := nobody
	for heard := false; !c.quit && c.srv.down.Err() == nil; {
		args, err := c.r.Next()
		if err != nil {
			c.broke(err)
			return
		}
		by := c.caller()
		if by != counted && by.who != counted.who {
			if err := c.srv.hold(c, by.who); err != nil {
				c.crowded(err)
				return
			}
		}
		counted = by
		c.execute(by, args)
		// Whoever is nobody goes on making room for others, whatever he sends.
		if !heard && c.caller().who.Role != access.Nobody {
			if heard = true; !c.srv.spoke(c) {
				return
			}
		}
		if c.unsent++; c.unsent >= MaxUnsent && c.flush() != nil {
			return
		}
	}
	_ = c.flush() // it ends anyway
}

// caught is deferred by both goroutines. A panic ends this connection only: what
// finds a fault must not take the server from everybody else.
func (c *conn) caught() {
	if p := recover(); p != nil {
		c.srv.log.Error("a command or message panicked; its connection is closed", "panic", p, "from", c.nc.RemoteAddr(), "stack", string(debug.Stack()))
		_ = c.nc.Close()
	}
}

// end closes the connection.
func (c *conn) end() {
	_ = c.nc.Close()
	c.impatient()
	c.count()
	c.unsubscribe()
	c.srv.leave(c)
}

// broke ends the connection over what Next returned. What is no command, or too
// large a one, is answered first.
func (c *conn) broke(err error) {
	var protocol *resp.ProtocolError
	var limit *resp.LimitError
	switch {
	case errors.As(err, &protocol):
		c.srv.metrics.refused.WithLabelValues("protocol").Inc()
	case errors.As(err, &limit):
		c.srv.metrics.refused.WithLabelValues("size").Inc()
	default:
		_ = c.flush() // a client that only closed its sending side still reads
		c.srv.log.Debug("connection ended", "from", c.nc.RemoteAddr(), "cause", err)
		return
	}
	c.srv.log.Debug("connection refused", "from", c.nc.RemoteAddr(), "cause", err)
	c.reply(func(w *resp.Writer) { w.Error("ERR " + err.Error()) })
	if c.flush() == nil {
		linger(c.nc)
	}
}

// crowded ends the connection of a caller who has too many.
func (c *conn) crowded(err error) {
	c.srv.metrics.refused.WithLabelValues("share").Inc()
	text, _ := errorLine(err)
	c.reply(func(w *resp.Writer) { w.Error(text) })
	if c.flush() == nil {
		linger(c.nc)
	}
}

// reply writes one answer as a whole. It is sent later.
func (c *conn) reply(write func(w *resp.Writer)) {
	if c.sub != nil { // else nobody beside serve writes
		c.mu.Lock()
		defer c.mu.Unlock()
	}
	write(c.w)
	c.quit = c.quit || c.w.Err() != nil
}

// count puts the commands since the last time into the metrics: many of a pipeline at once, as all connections share them.
func (c *conn) count() {
	if c.answered > 0 {
		c.command.Load().ok.Add(float64(c.answered))
		c.answered = 0
	}
}

// flush sends what was written.
func (c *conn) flush() error {
	c.unsent = 0
	c.count()
	return c.send(func(*resp.Writer) {})
}

// send writes a message as a whole and sends it. Any goroutine may.
func (c *conn) send(write func(w *resp.Writer)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	write(c.w)
	return c.w.Flush()
}

// Read is how commands come in. Before it waits for more of them everything
// that was answered is sent.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
			c.ahead = nil
		}
		return n, nil
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	// Here and not for each command: they bound what is held, and what was read is held already.
	c.r.SetLimits(c.limits())
	n, err := c.nc.Read(p)
	c.lastRead.Store(time.Now().UnixNano())
	return n, err
}

// Write is how answers go out. A client that does not take one piece of them
// within writeTimeout, or up to writeSlack more, is closed: what it is owed
// would else be kept for it.
func (c *conn) Write(p []byte) (int, error) {
	if now := time.Now(); c.writeBy.Sub(now) < writeTimeout {
		c.writeBy = now.Add(writeTimeout + writeSlack)
		if err := c.nc.SetWriteDeadline(c.writeBy); err != nil {
			return 0, err
		}
	}
	n, err := c.nc.Write(p)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.srv.metrics.refused.WithLabelValues("unread").Inc()
		}
		c.srv.log.Debug("a client does not take its answers", "from", c.nc.RemoteAddr(), "cause", err)
		_ = c.nc.Close() // also ends a Read of the other goroutine
	}
	return n, err
}

// wake ends a Read that waits. It may be called from any goroutine. Who stops
// the server ends down first: serve looks at it after every command, so that it
// does not matter if whileConnected takes this back.
func (c *conn) wake() { _ = c.nc.SetReadDeadline(time.Unix(1, 0)) }

// whileConnected returns a context that ends with the connection or when the
// server stops. Until stop is called a second goroutine reads ahead: only who
// reads notices that a client has gone.
func (c *conn) whileConnected() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(c.srv.down)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c.readAhead() != nil {
			cancel()
		}
	}()
	return ctx, func() {
		c.wake()
		<-done
		_ = c.nc.SetReadDeadline(time.Time{})
		cancel()
	}
}

// readAhead keeps what comes in. It returns nil when it was woken or may keep
// no more, else why the connection ended.
func (c *conn) readAhead() error {
	var room [512]byte
	for len(c.ahead) < maxAhead {
		n, err := c.nc.Read(room[:min(len(room), maxAhead-len(c.ahead))])
		c.ahead = append(c.ahead, room[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hostOf is where a client is, without its port.
func hostOf(nc net.Conn) string {
	host, _, err := net.SplitHostPort(nc.RemoteAddr().String())
	if err != nil || len(host) > maxHost || !printable(host, ' ') {
		return "unknown"
	}
	return host
}

// read returns the state that answers a command.
func (c *conn) read(o api.ReadOptions) (st fsm.State, err error) {
	if o.Consistency == "" {
		return c.srv.reg.Read(c.srv.hard, o)
	}
	ctx, err := c.request()
	if err != nil {
		return st, err
	}
	return c.srv.reg.Read(ctx, o)
}

// request begins something that may wait. What was answered before is sent
// first, or its client would wait too. The context ends requestTimeout from now,
// or up to requestSlack later: one for each command would be a twentieth of what a
// leader's processor does for a small change.
func (c *conn) request() (context.Context, error) {
	if err := c.flush(); err != nil {
		c.quit = true
		return nil, err
	}
	if now := time.Now(); c.patience == nil || c.patient.Sub(now) < requestTimeout {
		c.impatient()
		c.patient = now.Add(requestTimeout + requestSlack)
		c.patience, c.impatient = context.WithDeadline(c.srv.hard, c.patient)
	}
	return c.patience, nil
}
