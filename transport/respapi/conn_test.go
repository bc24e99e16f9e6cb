package respapi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// noting notes how large the pieces are that a server sends.
type noting struct {
	net.Conn
	mu     sync.Mutex // guards pieces
	pieces []int
}

func (n *noting) Write(p []byte) (int, error) {
	n.mu.Lock()
	n.pieces = append(n.pieces, len(p))
	n.mu.Unlock()
	return n.Conn.Write(p)
}

// However much is pipelined, nobody waits for more than MaxUnsent answers.
func TestPipelineIsAnsweredInBoundedPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		b := served(t, p)
		near, far := net.Pipe()
		n := &noting{Conn: far}
		p.made <- n
		c := &client{t: t, nc: near, r: nil}
		b.t.Cleanup(func() { near.Close() })
		const commands = 3000
		go func() {
			// A long command first makes the server's buffer larger than MaxUnsent short ones.
			c.send("ECHO " + strings.Repeat("x", 10<<10) + "\r\n" + strings.Repeat("PING\r\n", commands) + "QUIT\r\n")
		}()
		got, err := io.ReadAll(near)
		if err != nil || strings.Count(string(got), "+PONG\r\n") != commands || !strings.HasSuffix(string(got), "+OK\r\n") {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		full := 0
		for _, size := range n.pieces[1:] {
			if size > MaxUnsent*len("+PONG\r\n") {
				t.Errorf("a piece of %d bytes", size)
			}
			if size == MaxUnsent*len("+PONG\r\n") {
				full++
			}
		}
		if full == 0 {
			t.Errorf("no piece reached the limit: %v", n.pieces)
		}
	})
}

// Half a command behind a whole one must not keep the answer back.
func TestAnswerBeforeHalfACommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := served(t, newPipes()).dial()
		c.send("*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI")
		if got := c.next(); got != "+PONG\r\n" {
			t.Errorf("%q", got)
		}
		c.send("NG\r\n")
		if got := c.next(); got != "+PONG\r\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestClientThatDoesNotReadIsClosed(t *testing.T) {
	// It has writeTimeout however long ago the last answer was, and the deadline of that one ends nothing.
	for pause, most := range map[time.Duration]time.Duration{
		0:              writeTimeout + writeSlack,
		writeSlack:     writeTimeout,
		2 * writeSlack: writeTimeout + writeSlack,
		time.Hour:      writeTimeout + writeSlack,
	} {
		synctest.Test(t, func(t *testing.T) {
			b := served(t, newPipes())
			c, other := b.dial(), b.dial()
			c.want("PING", "+PONG\r\n")
			time.Sleep(pause)
			start := time.Now()
			c.send("PING\r\n")
			other.want("PING", "+PONG\r\n")
			time.Sleep(most - time.Nanosecond)
			synctest.Wait()
			if n := b.srv.connsLen(); n != 2 {
				t.Errorf("after a pause of %v it is closed too early", pause)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if b.srv.connsLen() != 1 {
				t.Errorf("after a pause of %v the connection is open still", pause)
			}
			if rest := c.closed(); rest != "" || time.Since(start) != most {
				t.Errorf("after a pause of %v: %q after %v", pause, rest, time.Since(start))
			}
			if n := b.metric("scope_registry_resp_refused_total", "unread"); n != 1 {
				t.Errorf("counted %v", n)
			}
			other.want("PING", "+PONG\r\n")
		})
	}
}

// One case for each limit of the codec: an answer, and the end.
func TestTooLargeCommands(t *testing.T) {
	many := "*65\r\n" + strings.Repeat("$1\r\nx\r\n", 65)
	half := "$65536\r\n" + strings.Repeat("x", 65536) + "\r\n"
	for name, tc := range map[string]struct{ sent, want, reason string }{
		"arguments": {many, "65 arguments, a command may have 64", "size"},
		"argument":  {"*2\r\n$4\r\nECHO\r\n$65537\r\n", "65537 bytes, an argument may have 65536", "size"},
		"command":   {"*3\r\n" + half + half + "$1\r\n", "may have 131072 together", "size"},
		"inline":    {strings.Repeat("x", 65537), "no newline within 65536 bytes", "size"},
		"protocol":  {"*1\r\n:1\r\n", "expected '$', got ':'", "protocol"},
		"more":      {"*1\r\n:1\r\n" + strings.Repeat("x", maxLinger/2), "expected '$', got ':'", "protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			b := onTCP(t)
			c := b.dial()
			c.send(tc.sent)
			got := c.closed()
			contains(t, got, "-ERR Protocol error: ", tc.want)
			if strings.Count(got, "\r\n") != 1 || b.metric("scope_registry_resp_refused_total", tc.reason) != 1 {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestLongestCommand(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	c := b.dial()
	key := "app:" + strings.Repeat("x", 65536-4)
	c.send(fmt.Sprintf("*5\r\n$5\r\nSCOPE\r\n$5\r\nROUTE\r\n$%d\r\n%s\r\n$2\r\nAS\r\n$1\r\nb\r\n", len(key), key))
	if got := c.next(); got != "-MISDIRECTED writer is 10.0.0.1:6004\r\n" {
		t.Errorf("%q", got)
	}
}

func TestNames(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	c := b.dial()
	c.want("SCOPE RETIRE app:", "+OK\r\n")
	if actor := b.reg.Last().Actor; actor != "resp:anonymous@127.0.0.1" {
		t.Errorf("actor %q", actor)
	}
	name := strings.Repeat("n", MaxName)
	contains(t, c.ask("CLIENT SETNAME "+name+"n"), "-ERR", "64", "65")
	contains(t, c.ask("HELLO 2 SETNAME "+name+"n"), "-ERR", "64", "65")
	c.want("CLIENT SETNAME "+name, "+OK\r\n")
	c.want("SCOPE NODE DEL c", "+OK\r\n")
	if actor := b.reg.Last().Actor; actor != "resp:"+name+"@127.0.0.1" || len(actor) > fsm.MaxActor {
		t.Errorf("actor %q", actor)
	}
	if n := len(actorStart) + MaxName + 1 + maxHost; n > fsm.MaxActor {
		t.Errorf("an actor can have %d bytes", n)
	}
}

// elsewhere is a connection from a host that no network has.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv6loopback, Zone: "a\nb"} }

func TestHostThatIsNotPrintable(t *testing.T) {
	if host := newConn(New(Config{}), elsewhere{}, 1).host; host != "unknown" {
		t.Errorf("%q", host)
	}
}

func TestCommandsAreCounted(t *testing.T) {
	b := onTCP(t)
	c := b.dial()
	c.ask("PING")
	c.ask("ping")
	c.ask("PING 1 2")
	c.ask("scope get none")
	c.ask("made up by a client")
	c.ask("SCOPE FROB")
	for series, want := range map[string]float64{
		"PING ok": 2, "PING INVALID": 1, "SCOPE GET|NOT_FOUND": 1, "unknown INVALID": 2, "made INVALID": 0,
	} {
		labels := strings.Split(series, "|")
		if len(labels) == 1 {
			labels = strings.Split(series, " ")
		}
		if got := b.metric("scope_registry_resp_commands_total", labels...); got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
	if n := b.metric("scope_registry_resp_connections"); n != 1 {
		t.Errorf("%v connections", n)
	}
}

// A fault in one command ends its connection, and nothing else.
func TestPanicEndsOneConnection(t *testing.T) {
	b := onTCP(t)
	b.srv.add(&command{name: "BOOM", run: func(*conn, [][]byte) error { panic("boom") }})
	c, other := b.dial(), b.dial()
	other.want("PING", "+PONG\r\n")
	c.send("BOOM\r\n")
	if got := c.closed(); got != "" {
		t.Errorf("%q", got)
	}
	other.until("the connection is gone", func() bool { return b.srv.connsLen() == 1 })
}

// An error without a code is our fault, and says that the outcome is not known.
func TestPlainError(t *testing.T) {
	b := onTCP(t)
	b.reg.Fail = errors.New("line one\r\nline two")
	contains(t, b.dial().ask("SCOPE RETIRE x"), "-INTERNAL line one  line two")
}

// A command that does not end has its bound.
func TestCommandsHaveABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.reg.set(func() { b.reg.Hold = make(chan struct{}) })
		c := b.dial()
		for range 3 { // one bound after the other
			start := time.Now()
			go c.send("PING\r\nSCOPE RETIRE x\r\n")
			if got := c.next(); got != "+PONG\r\n" || time.Since(start) != 0 {
				t.Errorf("%q after %v: what is answered must not wait for the next command", got, time.Since(start))
			}
			if got := c.next(); got != "-OUTCOME_UNKNOWN nobody knows\r\n" || time.Since(start) < requestTimeout || time.Since(start) > requestTimeout+requestSlack {
				t.Errorf("%q after %v", got, time.Since(start))
			}
		}
	})
}

func TestLinearizableRoute(t *testing.T) {
	b := onTCP(t)
	c := b.dial()
	c.want("SCOPE ROUTE k AS a LINEARIZABLE", "+UNKNOWN\r\n")
	if len(b.reg.Asks) != 1 || b.reg.Asks[0] != (api.ReadOptions{Consistency: "linearizable"}) {
		t.Errorf("%v", b.reg.Asks)
	}
}
