package respapi

import (
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
)

// slack is how many times longer than usual an answer may take while somebody
// does harm. It is generous, as the harm is done on the same processors; what is
// looked for is an answer that waits for somebody else.
const slack = 50

// leastUsual is what any answer may take: below it the processors' other work
// is all that is measured.
const leastUsual = 100 * time.Microsecond

// usual is the middle of many round trips: a machine that does other things
// too makes single ones long.
func usual(c *client) time.Duration {
	c.t.Helper()
	took := make([]time.Duration, 201)
	for i := range took {
		start := time.Now()
		c.want("SCOPE ROUTE app:1 AS b", "-MISDIRECTED writer is 10.0.0.1:6004\r\n")
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// stillAnswers measures while harm is done, on a connection from before and on
// a new one.
func (b *bench) stillAnswers(before *client, as time.Duration) {
	b.t.Helper()
	late := b.dial()
	for name, c := range map[string]*client{"open": before, "new": late} {
		now := usual(c)
		b.t.Logf("%s connection: %v, usually %v", name, now, as)
		if now > slack*max(as, leastUsual) {
			b.t.Errorf("an answer on the %s connection took %v, usually %v", name, now, as)
		}
	}
	late.nc.Close()
}

// keepSending sends the same until the server closes.
func keepSending(c *client, text string) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := io.WriteString(c.nc, text); err != nil {
				return
			}
		}
	}()
	return ended
}

// Each sends what has killed or stalled other servers, and says what becomes of
// it while others are served.
func TestHostileClients(t *testing.T) {
	refused := func(sent, want string) func(*bench) func() {
		return func(b *bench) func() {
			c := b.dial()
			c.send(sent)
			return func() { contains(b.t, c.closed(), "-ERR Protocol error: ", want) }
		}
	}
	for name, harm := range map[string]func(b *bench) (after func()){
		"a huge argument":  refused("*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
		"many arguments":   refused("*9000000000000000000\r\n", "invalid multibulk length"),
		"HTTP":             refused("POST / HTTP/1.1\r\nHost: x\r\n\r\nSCOPE RETIRE app:\r\n", "HTTP"),
		"an endless line":  endlessLine,
		"half commands":    halfCommands,
		"unread answers":   unreadAnswers,
		"unread messages":  unreadMessages,
		"waits in numbers": manyWaits,
	} {
		t.Run(name, func(t *testing.T) {
			b := onTCP(t)
			b.reg.declared(t)
			c := b.dial()
			as := usual(c)
			after := harm(b)
			b.stillAnswers(c, as)
			after()
			c.want("PING", "+PONG\r\n")
		})
	}
}

func endlessLine(b *bench) func() {
	c := b.dial()
	ended := keepSending(c, strings.Repeat("x", 1000))
	return func() {
		got, _ := c.r.ReadString('\n') // what comes behind it is a reset: the client never stops
		contains(b.t, got, "-ERR Protocol error: too big inline request")
		<-ended
	}
}

func halfCommands(b *bench) func() {
	for range 500 {
		b.dial().send("*3\r\n$5\r\nSCOPE\r\n$5\r\nROU")
	}
	return func() {}
}

func unreadAnswers(b *bench) func() {
	c := b.dial()
	ended := keepSending(c, strings.Repeat("SCOPE NODES\r\n", 1000))
	return func() {
		c.nc.Close()
		<-ended
	}
}

func unreadMessages(b *bench) func() {
	subscribers := []*client{b.subscribe(), b.subscribe(), b.subscribe()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		long := strings.Repeat("\x01", 500) // as text it is five times as long
		for range 5 {                       // about 27 MB for each subscriber, more than two sockets hold
			for i := range 2000 {
				b.reg.apply(b.t, &fsm.Declare{Prefix: []byte(long), Writer: "a", Fallback: []string{"b", "c"}[i%2]})
			}
		}
	}()
	return func() {
		<-done // nobody waited for them
		for _, s := range subscribers {
			s.nc.Close()
		}
	}
}

func manyWaits(b *bench) func() {
	for i := range 200 {
		p := strings.Repeat("w", i%7+1) + string(rune('A'+i/7)) + ":"
		b.reg.apply(b.t, &fsm.Declare{Prefix: []byte(p), Writer: "a"})
		b.dial().send("MOVE-SCOPE " + p + " FROM a TO b MODE assisted\r\n")
	}
	b.changes(0, 200)
	return func() {}
}

// More idle connections than there may be cost little and keep nobody out.
func TestIdleConnections(t *testing.T) {
	const idle = 10_000
	b := onTCP(t)
	b.reg.declared(t)
	c := b.dial()
	as := usual(c)
	before, goroutines := inUse(), runtime.NumGoroutine()
	open := make([]net.Conn, 0, idle)
	for range idle {
		nc, err := net.Dial("tcp", b.ln.Addr().String())
		if errors.Is(err, syscall.EMFILE) {
			t.Fatalf("this test needs %d open files; raise the hard limit (ulimit -n): %v", idle+MaxConns+100, err)
		}
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, nc)
	}
	defer func() {
		for _, nc := range open {
			nc.Close()
		}
	}()
	b.stillAnswers(c, as)
	if n := b.srv.connsLen(); n > MaxConns || n < MaxConns-1 {
		t.Errorf("%d connections are served", n)
	}
	each := (inUse() - before) / MaxConns
	t.Logf("%d idle connections: %d bytes each, those of %d clients with them", MaxConns, each, idle)
	c.until("as many goroutines as connections", func() bool { return runtime.NumGoroutine()-goroutines <= MaxConns+10 })
	if each > 32<<10 {
		t.Errorf("an idle connection costs %d bytes", each)
	}
}

// inUse is the memory of heap and stacks, bytes.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
