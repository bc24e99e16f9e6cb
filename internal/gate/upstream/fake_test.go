package upstream

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// fake is a store in this process that knows what a gate asks of one.
type fake struct {
	t    *testing.T
	ln   net.Listener
	all  sync.WaitGroup
	addr string

	mu       sync.Mutex // guards what follows
	keys     map[string]string
	conns    map[int64]*fakeConn
	last     int64
	changes  int                 // of keys
	password string              // "" is none
	info     string              // besides what it always says
	answer   map[string][]string // by command: what is answered in place, one after the other
	stubborn int                 // how often a kill leaves the connection
	asked    []string
}

type fakeConn struct {
	net.Conn
	id      int64
	name    string
	authed  bool
	watched int // changes at WATCH
	queued  [][]string
	multi   bool
}

func newFake(t *testing.T) *fake {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, addr: addrs[0], keys: map[string]string{}, answer: map[string][]string{}}
	f.up(true)
	t.Cleanup(f.down)
	return f
}

func (f *fake) serve(ln net.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ln, f.conns, f.last = ln, map[int64]*fakeConn{}, 0
	f.all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.last++
			fc := &fakeConn{Conn: c, id: f.last}
			f.conns[fc.id] = fc
			f.mu.Unlock()
			f.all.Go(func() { f.converse(fc) })
		}
	})
}

// down ends the store's process.
func (f *fake) down() {
	f.mu.Lock()
	_ = f.ln.Close()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.all.Wait()
}

// up starts it again, with the keys or without.
func (f *fake) up(keep bool) {
	f.t.Helper()
	ln, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	if !keep {
		f.set(func() { clear(f.keys) })
	}
	f.serve(ln)
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.changes++
}

func (f *fake) converse(c *fakeConn) {
	in := resp.NewReader(c, resp.DefaultLimits())
	for {
		args, err := in.Next()
		if err != nil {
			break
		}
		var words []string
		for _, a := range args {
			words = append(words, string(a))
		}
		f.mu.Lock()
		out := f.do(c, words)
		f.mu.Unlock()
		if _, err := c.Write([]byte(out)); err != nil {
			break
		}
	}
	_ = c.Close()
	f.mu.Lock()
	if f.conns[c.id] == c {
		delete(f.conns, c.id)
	}
	f.mu.Unlock()
}

const (
	ok   = "+OK\r\n"
	none = "$-1\r\n"
)

func bulk(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }

func (f *fake) do(c *fakeConn, w []string) string {
	name := strings.ToUpper(w[0])
	if name == "CLIENT" {
		name += " " + strings.ToUpper(w[1])
	}
	f.asked = append(f.asked, name)
	if said := f.answer[name]; len(said) > 0 {
		f.answer[name] = said[1:]
		return said[0]
	}
	if f.password != "" && !c.authed && name != "AUTH" {
		return "-NOAUTH Authentication required.\r\n"
	}
	if c.multi && name != "EXEC" {
		c.queued = append(c.queued, w)
		return "+QUEUED\r\n"
	}
	switch name {
	case "AUTH":
		if c.authed = w[len(w)-1] == f.password; !c.authed {
			return "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
		}
		return ok
	case "MULTI":
		c.multi = true
		return ok
	case "WATCH":
		c.watched = f.changes
		return ok
	case "EXEC":
		return f.exec(c)
	}
	return f.plain(c, name, w)
}

func (f *fake) exec(c *fakeConn) string {
	queued := c.queued
	c.queued, c.multi = nil, false
	if c.watched != f.changes {
		return "*-1\r\n"
	}
	out := fmt.Sprintf("*%d\r\n", len(queued))
	for _, w := range queued {
		out += f.do(c, w)
	}
	return out
}

func (f *fake) plain(c *fakeConn, name string, w []string) string {
	switch name {
	case "GET":
		if v, there := f.keys[w[1]]; there {
			return bulk(v)
		}
		return none
	case "SET":
		if _, there := f.keys[w[1]]; there && len(w) > 3 {
			return none
		}
		f.keys[w[1]] = w[2]
		f.changes++
		return ok
	case "DEL":
		delete(f.keys, w[1])
		f.changes++
		return ":1\r\n"
	case "INFO":
		return bulk("# Server\r\nredis_version:7.0.15\r\nrun_id:1\r\nrole:master\r\naof_enabled:1\r\n" + f.info)
	case "CLIENT SETNAME":
		c.name = w[2]
		return ok
	case "CLIENT ID":
		return fmt.Sprintf(":%d\r\n", c.id)
	case "CLIENT LIST":
		var out string
		for _, id := range slices.Sorted(f.ids()) {
			out += fmt.Sprintf("id=%d addr=127.0.0.1:1 name=%s age=1 cmd=client|list user=default\n", id, f.conns[id].name)
		}
		return bulk(out)
	case "CLIENT KILL":
		return f.kill(w[3])
	case "CLIENT UNBLOCK":
		return ":1\r\n"
	}
	return "-ERR unknown command\r\n"
}

func (f *fake) ids() func(func(int64) bool) {
	return func(yield func(int64) bool) {
		for id := range f.conns {
			if !yield(id) {
				return
			}
		}
	}
}

func (f *fake) kill(text string) string {
	id, _ := strconv.ParseInt(text, 10, 64)
	victim := f.conns[id]
	if victim == nil {
		return ":0\r\n"
	}
	if f.stubborn > 0 {
		f.stubborn--
		return ":1\r\n"
	}
	_ = victim.Close()
	delete(f.conns, id)
	return ":1\r\n"
}

// names are those of the connections.
func (f *fake) names() (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range slices.Sorted(f.ids()) {
		all = append(all, f.conns[id].name)
	}
	return all
}

// count is how often a command came.
func (f *fake) count(name string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.asked {
		if a == name {
			n++
		}
	}
	return n
}

func (f *fake) config() Config { return Config{Addr: f.addr, Node: "n1", Identity: "data1"} }

// open opens the store, and closes it with the test.
func (f *fake) open(c Config) *Store {
	f.t.Helper()
	s, err := Open(f.t.Context(), c, testLog(f.t))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() })
	return s
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(writer{t}, nil))
}

type writer struct{ t *testing.T }

func (w writer) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}
