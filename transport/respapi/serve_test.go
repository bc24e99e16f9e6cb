package respapi

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		first, second := b.dial(), b.dial()
		talking := make([]*client, 0, MaxConns)
		for range MaxConns - 2 {
			talking = append(talking, b.dial())
		}
		for _, c := range talking {
			c.want("PING", "+PONG\r\n")
		}
		second.send("*2\r\n$4\r\nECHO\r\n") // half a command is none
		synctest.Wait()
		for _, old := range []*client{first, second} { // the oldest goes first
			next := make(chan *client)
			go func() { next <- b.dial() }()
			contains(t, old.closed(), "-LIMIT ", "made room", "4096 connections")
			c := <-next
			c.want("PING", "+PONG\r\n")
			talking = append(talking, c)
		}
		if n := b.srv.connsLen(); n != MaxConns {
			t.Errorf("%d connections", n)
		}
		late := b.dial() // there is nobody left who never spoke
		contains(t, late.closed(), "-LIMIT this server has 4096 connections, which is the limit; use another server, or close some\r\n")
		talking[7].want("PING", "+PONG\r\n")
		talking[0].nc.Close()
		synctest.Wait()
		b.dial().want("PING", "+PONG\r\n")
		synctest.Wait()
		for reason, want := range map[string]float64{"evicted": 2, "limit": 1} {
			if got := b.metric("scope_registry_resp_refused_total", reason); got != want {
				t.Errorf("%s: %v, want %v", reason, got, want)
			}
		}
		if got := b.metric("scope_registry_resp_connections"); got != MaxConns {
			t.Errorf("%v connections are counted", got)
		}
		contains(t, talking[7].ask("CLIENT LIST"), "id=4 ")
		if lines := strings.Count(talking[7].ask("CLIENT LIST"), "\n") - 2; lines != MaxCount {
			t.Errorf("%d lines of CLIENT LIST", lines)
		}
	})
}

func TestServeEndsWithItsListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := New(Config{Registry: newMemory(t)}).Serve(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// Go's scheduler is not told of the reads and writes of a connection without TLS.
func TestConnectionsAreRaw(t *testing.T) {
	b := onTCP(t)
	b.dial().want("PING", "+PONG\r\n")
	b.srv.eachConn(func(c *conn) {
		if _, ok := c.nc.(*net.TCPConn); ok == (runtime.GOOS == "linux") {
			t.Errorf("it is a %T", c.nc)
		}
	})
	if n := b.srv.connsLen(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// short fails to accept a few times.
type short struct {
	*pipes
	fails []error
}

func (s *short) Accept() (net.Conn, error) {
	if len(s.fails) > 0 {
		err := s.fails[0]
		s.fails = s.fails[1:]
		return nil, err
	}
	return s.pipes.Accept()
}

func TestAcceptGoesOnWithoutFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		none := &net.OpError{Op: "accept", Err: syscall.EMFILE}
		p := newPipes()
		start := time.Now()
		b := served(t, &short{p, []error{none, none, none}})
		b.ln = p
		b.dial().want("PING", "+PONG\r\n")
		if took := time.Since(start); took != 7*minPause {
			t.Errorf("paused for %v", took)
		}
	})
}

// What waits ends at once and says so; other commands have their time.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.reg.declared(t)
		idle, subscriber, waits, busy := b.dial(), b.dial(), b.dial(), b.dial()
		idle.want("PING", "+PONG\r\n")
		subscriber.ask("SUBSCRIBE scope.events")
		waits.send("MOVE-SCOPE app: FROM a TO b MODE assisted ID m1\r\nPING\r\n")
		subscriber.next()
		synctest.Wait()
		b.reg.set(func() { b.reg.Hold = make(chan struct{}) })
		busy.send("SCOPE NODE DEL c\r\n")
		synctest.Wait()
		start := time.Now()
		stopped := make(chan error)
		go func() { stopped <- b.stop() }()
		if got := idle.closed() + subscriber.closed(); got != "" {
			t.Errorf("%q", got)
		}
		contains(t, waits.closed(), "-TIMEOUT ", "this server is stopping", "the move goes on: SCOPE MOVE m1")
		if took := time.Since(start); took != 0 {
			t.Errorf("the wait took %v", took)
		}
		time.Sleep(time.Second)
		close(b.reg.Hold)
		if got := busy.closed(); got != "+OK\r\n" {
			t.Errorf("%q", got)
		}
		if err := <-stopped; err != nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if m, ok := b.reg.State().Moves().Get("m1"); !ok || !m.Running() {
			t.Errorf("the move is %v", m.Phase)
		}
	})
}

func TestStopCutsOffWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.reg.set(func() { b.reg.Hold = make(chan struct{}) })
		c := b.dial()
		c.send("SCOPE NODE DEL c\r\n")
		synctest.Wait()
		start := time.Now()
		if err := b.stop(); err != nil || time.Since(start) != shutdownTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if got := c.closed(); got != "" {
			t.Errorf("%q", got)
		}
	})
}

func TestPages(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	c := b.dial()
	for i := range 250 {
		c.want(fmt.Sprintf("SCOPE DECLARE p%03d: WRITER a", i), "+OK\r\n")
	}
	seen, from := 0, ""
	for pages := 1; ; pages++ {
		got := c.ask("SCOPE LIST MATCH p" + from)
		seen += strings.Count(got, "$6\r\nprefix\r\n")
		next := strings.Split(got, "\r\n")
		if next[1] == "$-1" {
			if pages != 3 || seen != 250 {
				t.Errorf("%d scopes on %d pages", seen, pages)
			}
			return
		}
		from = " FROM " + next[2]
	}
}
