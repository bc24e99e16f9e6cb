//go:build peers

package gate

import (
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

// redis is a Redis server, which can be ended and begun anew.
type redis struct {
	t    *testing.T
	addr string
	cmd  *exec.Cmd
}

func newRedis(t *testing.T) *redis {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	s := &redis{t: t, addr: addrs[0]}
	s.begin()
	t.Cleanup(s.kill)
	return s
}

func (s *redis) begin() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.t.TempDir())
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("%v; on Debian: apt-get install redis-server", err)
	}
}

func (s *redis) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// peerRig is a rig whose gate stands before a Redis server.
func peerRig(t *testing.T) (*rig, *redis) {
	s := newRedis(t)
	st, err := upstream.Open(t.Context(), upstream.Config{Addr: s.addr, Node: "n", Identity: "i"}, slog.New(slog.NewTextHandler(testLog{t}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() }) // after the gate's end
	return newRig(t, func(c *Config) { c.Store = st }), s
}

// waits returns when Redis shows a client that waits.
func (s *redis) waits(r *rig) {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	u := &user{s.t, nc}
	defer func() { _ = nc.Close() }()
	r.eventually("a client waits", func() error {
		u.send("INFO clients")
		for _, line := range strings.Split(u.bulk(), "\r\n") {
			if line == "blocked_clients:1" {
				return nil
			}
		}
		return errNotYet
	})
}

// bulk returns a string.
func (u *user) bulk() string {
	u.t.Helper()
	var n int
	if _, err := fmt.Sscanf(u.line(), "$%d", &n); err != nil {
		u.t.Fatal(err)
	}
	text := ""
	for len(text) < n {
		text += u.line() + "\r\n"
	}
	if len(text) == n {
		u.line() // what ends a string that ends with a line
	}
	return text[:n]
}

func TestPeerParkedAndTransactions(t *testing.T) {
	r, s := peerRig(t)
	to, addr := r.target()
	u, v := r.user(), r.user()
	v.send("SET "+r.x("a")+" 1", "MULTI", "INCR "+r.x("a"), "INCR "+r.x("a"), "EXEC", "WATCH "+r.x("a"), "SET "+r.x("a")+" 7", "MULTI", "INCR "+r.x("a"), "EXEC", "GET "+r.x("a"))
	v.gets("+OK", "+OK", "+QUEUED", "+QUEUED", "*2", ":2", ":3", "+OK", "+OK", "+OK", "+QUEUED", "*-1", "$1", "7")
	v.send("MULTI", "INCR", "EXEC", "EXEC", "HELLO 3", "WATCH "+r.x("a"), "SET "+r.x("a")+" 8", "MULTI", "INCR "+r.x("a"), "EXEC")
	v.gets("+OK", "-ERR wrong number of arguments for 'incr' command", "-EXECABORT Transaction discarded because of previous errors.", "-ERR EXEC without MULTI")
	for v.line() != "*0" { // the end of HELLO's reply
	}
	v.gets("+OK", "+OK", "+OK", "+QUEUED", "_")
	u.send("BLMOVE "+r.x("q")+" "+r.x("p")+" LEFT LEFT 0", "PING")
	s.waits(r)
	id := r.move(to)
	u.gets("-QUIESCED migrating to "+addr, "+PONG")
	r.phase(id, "done")
	v.send("SET " + r.x("a") + " 2")
	v.gets("-MISDIRECTED writer is " + addr)
}

func TestPeerClientLeavesWhatWaits(t *testing.T) {
	r, s := peerRig(t)
	u := r.user()
	u.send("BLPOP " + r.x("q") + " 0")
	s.waits(r)
	_ = u.nc.Close()
	r.eventually("the private connection is gone", func() error {
		if n := r.gate.pipes.Load(); n > 1 {
			return fmt.Errorf("%d are there", n)
		}
		return nil
	})
}

func TestPeerSubscriptions(t *testing.T) {
	r, _ := peerRig(t)
	u, pub := r.user(), r.user()
	u.send("SUBSCRIBE a b", "PSUBSCRIBE c*", "UNSUBSCRIBE", "SUBSCRIBE", "GET x", "PUNSUBSCRIBE", "GET x")
	u.gets("*3", "$9", "subscribe", "$1", "a", ":1", "*3", "$9", "subscribe", "$1", "b", ":2", "*3", "$10", "psubscribe", "$2", "c*", ":3")
	for range 2 {
		u.gets("*3", "$11", "unsubscribe", "$1")
		u.line()
		u.line()
	}
	u.gets("-ERR wrong number of arguments for 'subscribe' command")
	if line := u.line(); !strings.HasPrefix(line, "-ERR Can't execute 'get'") {
		t.Error(line)
	}
	u.gets("*3", "$12", "punsubscribe", "$2", "c*", ":0", "$-1")
	u.send("SUBSCRIBE a")
	u.gets("*3", "$9", "subscribe", "$1", "a", ":1")
	pub.send("PUBLISH a " + strings.Repeat("x", 300_000))
	pub.gets(":1")
	u.gets("*3", "$7", "message", "$1", "a", "$300000", strings.Repeat("x", 300_000))
}

// The right to PING is not needed for subscriptions, in neither protocol.
func TestPeerSubscriptionsWithoutPing(t *testing.T) {
	r, s := peerRig(t)
	direct, pub := newUser(t, s.addr), r.user()
	direct.send("ACL SETUSER noping on >secret ~* resetchannels &a* +@all -ping")
	direct.gets("+OK")
	for _, hello := range []string{"HELLO 2 AUTH noping secret", "HELLO 3 AUTH noping secret"} {
		u := r.user()
		array := "*"
		if strings.HasPrefix(hello, "HELLO 3") {
			array = ">"
		}
		u.send(hello, "CLIENT GETNAME", "PING", "SUBSCRIBE b", "SUBSCRIBE", "SUBSCRIBE a1 a2", "SUBSCRIBE b")
		for line := ""; !strings.HasPrefix(line, "-NOPERM"); line = u.line() {
		}
		const refused = "-NOPERM this user has no permissions to access one of the channels used as arguments"
		u.gets(refused, "-ERR wrong number of arguments for 'subscribe' command", array+"3", "$9", "subscribe", "$2", "a1", ":1",
			array+"3", "$9", "subscribe", "$2", "a2", ":2", refused)
		pub.send("PUBLISH a2 hello")
		pub.gets(":1")
		u.gets(array+"3", "$7", "message", "$2", "a2", "$5", "hello")
		u.send("UNSUBSCRIBE a1 a2", "SET "+r.x("a")+" 1")
		u.gets(array+"3", "$11", "unsubscribe", "$2", "a1", ":1", array+"3", "$11", "unsubscribe", "$2", "a2", ":0", "+OK")
	}
}

// The server dies and comes back, with a write under way: the write is unknown, and the gate goes on.
func TestPeerServerDies(t *testing.T) {
	r, s := peerRig(t)
	u, p := r.user(), r.user()
	u.send("SET " + r.x("a") + " 1")
	u.gets("+OK")
	p.send("BLPOP " + r.x("q") + " 0")
	s.waits(r)
	s.kill()
	if line := p.line(); !strings.HasPrefix(line, "-OUTCOME_UNKNOWN ") {
		t.Error(line)
	}
	p.ends()
	u.send("GET " + r.x("a"))
	if line := u.line(); !strings.HasPrefix(line, "-TRYAGAIN UNAVAILABLE ") {
		t.Error(line)
	}
	s.begin()
	r.eventually("the gate goes on", func() error {
		u.send("SET " + r.x("a") + " 2")
		if line := u.line(); line != "+OK" {
			return fmt.Errorf("%s", line)
		}
		return nil
	})
	r.eventually("nothing is in limbo", func() error {
		if n := r.gate.Stats().Limbo; n != 0 {
			return fmt.Errorf("%d writes are", n)
		}
		return nil
	})
}
