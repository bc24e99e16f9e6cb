package respapi

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
)

func (b *bench) subscribe() *client {
	b.t.Helper()
	c := b.dial()
	c.want("SUBSCRIBE scope.events", "*3\r\n$9\r\nsubscribe\r\n$12\r\nscope.events\r\n:1\r\n")
	return c
}

// changes applies n changes, from the number first on.
func (b *bench) changes(first, n int) {
	b.t.Helper()
	for i := first; i < first+n; i++ {
		b.reg.apply(b.t, &fsm.SetNode{Id: "c", Addr: fmt.Sprintf("h%d:1", i)})
	}
}

func TestSubscriberThatFallsBehindIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		c := b.subscribe()
		other := b.subscribe()
		b.changes(0, 1)
		synctest.Wait()
		go func() {
			for range fsm.MaxHistory + 2 { // one that reads is not affected
				if _, err := other.reply(); err != nil {
					t.Error(err)
				}
			}
		}()
		for i := range 8 { // in parts, so that the other one can follow
			b.changes(1+i*(fsm.MaxHistory/8), fsm.MaxHistory/8)
			synctest.Wait()
		}
		b.changes(1+fsm.MaxHistory, 1)
		got := c.closed()
		if strings.Count(got, "*3\r\n") != 1 || b.metric("scope_registry_resp_refused_total", "behind") != 1 {
			t.Errorf("%.300q", got)
		}
		contains(t, got, `"addr":"h0:1"`, "\r\n-SLOW ", "fell too far behind")
		synctest.Wait()
		if n := b.metric("scope_registry_resp_subscribers"); n != 1 || b.srv.subscribers.Load() != 1 {
			t.Errorf("%v subscribers", n)
		}
	})
}

func TestSubscriberThatDoesNotReadIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		c := b.subscribe()
		b.changes(0, 2)
		time.Sleep(writeTimeout + writeSlack)
		synctest.Wait()
		if n := b.srv.connsLen(); n != 0 || b.metric("scope_registry_resp_refused_total", "unread") != 1 {
			t.Errorf("%d connections", n)
		}
		if got := c.closed(); got != "" {
			t.Errorf("%q", got)
		}
	})
}

// What was changed before is not told again, what comes after is, without a gap.
func TestMessagesBeginNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.changes(0, 5)
		c := b.subscribe()
		b.changes(5, 5)
		for i := range 5 {
			contains(t, c.next(), fmt.Sprintf(`{"type":"change","index":%d,`, 6+i), fmt.Sprintf(`"addr":"h%d:1"`, 5+i))
		}
	})
}

// Subscribers share what is encoded; who stands elsewhere gets its own item.
func TestLinesAreShared(t *testing.T) {
	var l lines
	item := func(i uint64) fsm.Item {
		return fsm.Item{Index: i, Events: []fsm.Event{{Cause: "set", Node: &fsm.Node{ID: "a", Addr: fmt.Sprintf("h%d:1", i)}}}}
	}
	get := func(i uint64) []byte {
		text, err := l.of(item(i))
		if err != nil {
			t.Fatal(err)
		}
		contains(t, string(text), fmt.Sprintf("h%d:1", i))
		return text
	}
	newest := get(9)
	get(1) // of the same place, and older
	if again := get(9); &again[0] != &newest[0] {
		t.Error("the newest was encoded twice")
	}
	// After a restore the same index is another item.
	later := item(9)
	later.Cluster.Incarnation = 2
	text, err := l.of(later)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(text), `"incarnation":2`)
}

// A message that is larger than the writer's buffer comes whole, between
// answers.
func TestLargeMessages(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	c := b.dial()
	c.ask("HELLO 3")
	c.send("SUBSCRIBE scope.events\r\n")
	c.next()
	batch := &fsm.Batch{}
	for i := range 2000 {
		batch.Scopes = append(batch.Scopes, &fsm.Declare{Prefix: fmt.Appendf(nil, "p%d:", i), Writer: "a"})
	}
	b.reg.apply(t, batch)
	c.send(strings.Repeat("PING\r\n", 100))
	pushes, pongs := 0, 0
	for pushes < 1 || pongs < 100 {
		switch got := c.next(); {
		case got == "+PONG\r\n":
			pongs++
		case strings.HasPrefix(got, ">3\r\n$7\r\nmessage\r\n") && strings.HasSuffix(got, "]}\r\n") && len(got) > 256<<10:
			pushes++
		default:
			t.Fatalf("%.200q", got)
		}
	}
}

// running reports whether a goroutine is in a function.
func running(function string) bool {
	var stacks bytes.Buffer
	err := pprof.Lookup("goroutine").WriteTo(&stacks, 2)
	return err == nil && strings.Contains(stacks.String(), function)
}

// Behind the confirmation that it is over there is no message: one that is on
// its way is waited for.
func TestNothingComesAfterUnsubscribe(t *testing.T) {
	b := onTCP(t)
	c := b.subscribe()
	b.srv.lines.newest[1].mu.Lock()
	b.changes(0, 1)
	for !running("respapi.(*lines).of") { // the message is being made
		runtime.Gosched()
	}
	c.send("UNSUBSCRIBE\r\nPING\r\n")
	var answered atomic.Bool
	made := make(chan struct{})
	go func() {
		defer close(made)
		for !answered.Load() && !running("respapi.(*conn).unsubscribe") {
			runtime.Gosched()
		}
		b.srv.lines.newest[1].mu.Unlock()
	}()
	got := take(c, 2)
	answered.Store(true)
	<-made
	got += take(c, 1)
	if !strings.HasPrefix(got, "*3\r\n$7\r\nmessage\r\n") || !strings.HasSuffix(got, "*3\r\n$11\r\nunsubscribe\r\n$12\r\nscope.events\r\n:0\r\n+PONG\r\n") {
		t.Errorf("%q", got)
	}
}

// faulty gives watchers that panic where the next message is waited for.
type faulty struct{ Registry }

func (faulty) Watch(uint64) (*fsm.Watcher, error) { return &fsm.Watcher{}, nil }

// A fault in a message ends its connection, and nothing else.
func TestPanicInAMessageEndsOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.srv.reg = faulty{b.reg}
		c, other := b.dial(), b.dial()
		other.want("PING", "+PONG\r\n")
		c.send("SUBSCRIBE scope.events\r\n")
		// The confirmation may be there before the fault, or not.
		if got := c.closed(); got != "" && got != "*3\r\n$9\r\nsubscribe\r\n$12\r\nscope.events\r\n:1\r\n" {
			t.Errorf("%q", got)
		}
		synctest.Wait()
		if n := b.srv.connsLen(); n != 1 || b.srv.subscribers.Load() != 0 {
			t.Errorf("%d connections", n)
		}
		other.want("PING", "+PONG\r\n")
	})
}
