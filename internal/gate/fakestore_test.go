package gate

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// fakeStore is a store in this process that speaks the protocol over TCP: a few commands, and a hook before each is executed.
// It is the gate's [Store] too.
type fakeStore struct {
	t  *testing.T
	l  net.Listener
	wg sync.WaitGroup

	mu       sync.Mutex // guards what follows
	turn     *sync.Cond // on mu: data or conns changed
	data     map[string]string
	lists    map[string][]string
	conns    map[int64]*fakeConn
	lastID   int64
	executed []string
	before   func(c *fakeConn, args []string) // waits, or closes the connection; called without mu
	buried   func()                           // called by Gone, without mu
	down     bool
}

type fakeConn struct {
	s         *fakeStore
	id        int64
	nc        net.Conn
	w         *resp.Writer
	wmu       sync.Mutex
	queued    [][]string
	multi     bool
	blocked   bool
	unblocked bool
	gone      bool
	subs      []string
	noPing    bool // of a user without the right to
	busy      bool // for the next PING
}

const busyText = "BUSY Redis is busy running a script"

func newFakeStore(t *testing.T) *fakeStore {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeStore{t: t, l: l, data: map[string]string{}, lists: map[string][]string{}, conns: map[int64]*fakeConn{}}
	s.turn = sync.NewCond(&s.mu)
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		_ = l.Close()
		s.kill()
		s.wg.Wait()
	})
	return s
}

func (s *fakeStore) accept() {
	for {
		nc, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.lastID++
		c := &fakeConn{s: s, id: s.lastID, nc: nc, w: resp.NewWriter(nc)}
		s.conns[c.id] = c
		s.turn.Broadcast()
		s.mu.Unlock()
		s.wg.Go(c.serve)
	}
}

// kill ends all connections, as a store that dies.
func (s *fakeStore) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.nc.Close()
		c.gone = true
	}
	s.turn.Broadcast()
}

// did are the commands that were executed, in order.
func (s *fakeStore) did() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.executed)
}

func (s *fakeStore) hook(f func(c *fakeConn, args []string)) {
	s.mu.Lock()
	s.before = f
	s.mu.Unlock()
}

func (c *fakeConn) serve() {
	r := resp.NewReader(c.nc, resp.Limits{Args: 1 << 20, ArgLen: 64 << 20, Command: 64 << 20, Inline: 1 << 10})
	for {
		raw, err := r.Next()
		if err != nil {
			break
		}
		args := make([]string, len(raw))
		for i := range raw {
			args[i] = string(raw[i])
		}
		c.s.mu.Lock()
		before := c.s.before
		c.s.mu.Unlock()
		if before != nil {
			before(c, args)
		}
		if !c.take(args) {
			break
		}
		c.wmu.Lock()
		if r.Buffered() == 0 {
			err = c.w.Flush()
		}
		c.wmu.Unlock()
		if err != nil {
			break
		}
	}
	_ = c.nc.Close()
	c.s.mu.Lock()
	delete(c.s.conns, c.id)
	c.gone = true
	c.s.turn.Broadcast()
	c.s.mu.Unlock()
}

// take answers a command.
func (c *fakeConn) take(args []string) bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.gone {
		return false
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	name := strings.ToUpper(args[0])
	switch {
	case c.multi && !slices.Contains([]string{"EXEC", "DISCARD", "MULTI"}, name):
		c.queued = append(c.queued, args)
		c.w.Simple("QUEUED")
	case name == "MULTI" && c.multi:
		c.w.Error("ERR MULTI calls can not be nested")
	case name == "MULTI":
		c.multi = true
		c.w.Simple("OK")
	case name == "DISCARD":
		c.s.executed = append(c.s.executed, "DISCARD")
		c.multi, c.queued = false, nil
		c.w.Simple("OK")
	case name == "EXEC":
		queued := c.queued
		c.multi, c.queued = false, nil
		c.w.Array(len(queued))
		for _, q := range queued {
			c.execute(strings.ToUpper(q[0]), q)
		}
	default:
		c.execute(name, args)
	}
	return true
}

// execute does a command; mu and wmu are held.
func (c *fakeConn) execute(name string, args []string) {
	s := c.s
	s.executed = append(s.executed, strings.Join(args, " "))
	switch name {
	case "SET":
		s.data[args[1]] = args[2]
		c.w.Simple("OK")
	case "MSET":
		for i := 1; i+1 < len(args); i += 2 {
			s.data[args[i]] = args[i+1]
		}
		c.w.Simple("OK")
	case "GET", "GETDEL":
		v, ok := s.data[args[1]]
		if name == "GETDEL" {
			delete(s.data, args[1])
		}
		if !ok {
			c.w.Null()
			return
		}
		c.w.BulkString(v)
	case "RPUSH":
		s.lists[args[1]] = append(s.lists[args[1]], args[2:]...)
		s.turn.Broadcast()
		c.w.Int(int64(len(s.lists[args[1]])))
	case "BLPOP":
		c.pop(args[1])
	case "XREAD": // BLOCK 0 STREAMS key $: of a list here
		c.pop(args[4])
	case "PUBLISH":
		c.publish(args[1], args[2])
	case "SUBSCRIBE":
		if slices.Contains(args, "busy") { // so is PING then
			c.busy = true
			c.w.Error(busyText)
			return
		}
		if slices.Contains(args, "astray") {
			c.w.Simple("OK")
			return
		}
		if slices.Contains(args, "secret") {
			c.w.Error("NOPERM no such channel for you")
			return
		}
		for _, ch := range args[1:] {
			c.subs = append(c.subs, ch)
			c.confirm("subscribe", ch)
		}
	case "UNSUBSCRIBE":
		for _, ch := range slices.Clone(c.subs) {
			c.subs = c.subs[1:]
			c.confirm("unsubscribe", ch)
		}
	default:
		c.connection(name, args)
	}
}

func (c *fakeConn) confirm(kind, channel string) {
	c.w.Push(3)
	c.w.BulkString(kind)
	c.w.BulkString(channel)
	c.w.Int(int64(len(c.subs)))
}

// connection is a command about the connection.
func (c *fakeConn) connection(name string, args []string) {
	switch name {
	case "PING":
		switch {
		case c.busy:
			c.busy = false
			c.w.Error(busyText)
		case c.noPing:
			c.w.Error("NOPERM User noping has no permissions to run the 'ping' command")
		case len(c.subs) > 0 && c.w.Proto() == 2:
			c.w.Array(2)
			c.w.BulkString("pong")
			c.w.BulkString(strings.Join(args[1:], " "))
		case len(args) > 1:
			c.w.BulkString(args[1])
		default:
			c.w.Simple("PONG")
		}
	case "HELLO":
		if len(args) > 3 && args[2] == "AUTH" && args[len(args)-1] != "secret" {
			c.w.Error("WRONGPASS no")
			return
		}
		c.w.SetProto(int(args[1][0] - '0'))
		c.w.Map(1)
		c.w.BulkString("server")
		c.w.BulkString("fake")
	case "AUTH":
		if args[len(args)-1] != "secret" {
			c.w.Error("WRONGPASS no")
			return
		}
		c.noPing = args[1] == "noping"
		c.w.Simple("OK")
	case "WATCH", "WAIT":
		c.w.Simple("OK")
	case "CLIENT":
		c.w.Int(c.id)
	default:
		c.w.Error("ERR unknown command '" + args[0] + "'")
	}
}

// pop waits for an element; mu and wmu are held.
func (c *fakeConn) pop(key string) {
	c.blocked, c.unblocked = true, false
	for len(c.s.lists[key]) == 0 && !c.unblocked && !c.gone {
		c.wmu.Unlock()
		c.s.turn.Wait()
		c.wmu.Lock()
	}
	c.blocked = false
	if len(c.s.lists[key]) == 0 {
		c.w.Error("UNBLOCKED client unblocked via CLIENT UNBLOCK")
		return
	}
	c.w.Array(2)
	c.w.BulkString(key)
	c.w.BulkString(c.s.lists[key][0])
	c.s.lists[key] = c.s.lists[key][1:]
}

func (c *fakeConn) publish(channel, text string) {
	n := 0
	for _, o := range c.s.conns {
		if !slices.Contains(o.subs, channel) {
			continue
		}
		n++
		if o != c {
			o.wmu.Lock()
		}
		o.w.Push(3)
		o.w.BulkString("message")
		o.w.BulkString(channel)
		o.w.BulkString(text)
		_ = o.w.Flush()
		if o != c {
			o.wmu.Unlock()
		}
	}
	c.w.Int(int64(n))
}

func (s *fakeStore) Dial(context.Context) (*upstream.Conn, error) {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	if down {
		return nil, fmt.Errorf("the store at %s cannot be reached", s.l.Addr())
	}
	nc, err := net.Dial("tcp", s.l.Addr().String())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for id, c := range s.conns {
			if c.nc.RemoteAddr().String() == nc.LocalAddr().String() {
				return &upstream.Conn{Conn: nc, ID: id, Name: strconv.FormatInt(id, 10)}, nil
			}
		}
		s.turn.Wait()
	}
}

func (s *fakeStore) Unblock(_ context.Context, u *upstream.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conns[u.ID]; c != nil && c.blocked {
		c.unblocked = true
		s.turn.Broadcast()
	}
	return nil
}

func (s *fakeStore) Gone(_ context.Context, u *upstream.Conn) error {
	s.mu.Lock()
	buried := s.buried
	if c := s.conns[u.ID]; c != nil {
		c.gone = true
		_ = c.nc.Close()
		s.turn.Broadcast()
	}
	s.mu.Unlock()
	if buried != nil {
		buried()
	}
	return nil
}

func (s *fakeStore) Ask(_ context.Context, args ...string) (upstream.Reply, error) {
	switch args[0] {
	case "HELLO":
		return upstream.Reply{Kind: '*', Items: []upstream.Reply{{Kind: '$', Text: "server"}, {Kind: '$', Text: "fake"},
			{Kind: '$', Text: "proto"}, {Kind: ':', Int: 2}, {Kind: '$', Text: "id"}, {Kind: ':', Int: 77}, {Kind: '$', Text: "modules"}, {Kind: '*'}}}, nil
	case "COMMAND":
		flag := upstream.Reply{Kind: '*', Items: []upstream.Reply{{Kind: '+', Text: "RW"}}}
		return upstream.Reply{Kind: '*', Items: []upstream.Reply{{Kind: '*', Items: []upstream.Reply{{Kind: '$', Text: args[len(args)-1]}, flag}}}}, nil
	}
	return upstream.Reply{}, fmt.Errorf("asked %q", args)
}
