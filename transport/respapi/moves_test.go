package respapi

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/migration"
)

// wait makes a connection wait for the move m1.
func (b *bench) wait() *client {
	b.t.Helper()
	c := b.dial()
	c.send("MOVE-SCOPE app: FROM a TO b MODE assisted ID m1\r\n")
	synctest.Wait()
	return c
}

func TestWaitEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.reg.declared(t)
		c := b.wait()
		c.send("SCOPE NODE DEL c\r\n") // comes behind the wait, and so never
		c.nc.Close()
		synctest.Wait()
		if n := b.srv.connsLen(); n != 0 {
			t.Errorf("%d connections", n)
		}
		if m, ok := b.reg.State().Moves().Get("m1"); !ok || !m.Running() || b.reg.State().NodesLen() != 3 {
			t.Errorf("%v, %d nodes", m.Phase, b.reg.State().NodesLen())
		}
	})
}

// What comes during a wait is answered after it, in order, whole and in part.
func TestPipelineBehindAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.reg.declared(t)
		c := b.wait()
		var want strings.Builder
		for i := range 1000 {
			c.send(fmt.Sprintf("ECHO m%d\r\n", i))
			fmt.Fprintf(&want, "$%d\r\nm%d\r\n", len(fmt.Sprint(i))+1, i)
		}
		c.send("MOVE-SCOPE app: FROM b TO a MODE assisted ID m2\r\nECHO a\r\nECHO")
		synctest.Wait()
		b.reg.apply(t, &fsm.Shipped{Move: "m1"}, &fsm.Ready{Move: "m1"}, &fsm.Cleaned{Node: "a", Prefix: []byte("app:"), Reason: "off"})
		if got := take(c, 1001); got != "+OK 0\r\n"+want.String() {
			t.Errorf("%.200q", got)
		}
		synctest.Wait()
		c.send(" b\r\n")
		b.reg.apply(t, &fsm.Abort{Move: "m2"})
		if got := take(c, 3); got != "-WRONG_PHASE move m2 was aborted (operator); b owns \"app:\"\r\n$1\r\na\r\n$1\r\nb\r\n" {
			t.Errorf("%q", got)
		}
	})
}

// A client that sends more than is read ahead waits in its own write, and
// loses nothing.
func TestReadAheadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.reg.declared(t)
		c := b.wait()
		const commands = 3 * maxAhead / len("PING\r\n")
		sent := make(chan struct{})
		go func() {
			c.send(strings.Repeat("PING\r\n", commands))
			close(sent)
		}()
		synctest.Wait()
		select {
		case <-sent:
			t.Error("everything was read ahead")
		default:
		}
		b.reg.apply(t, &fsm.Shipped{Move: "m1"}, &fsm.Ready{Move: "m1"})
		if got := take(c, 1+commands); got != "+OK 0\r\n"+strings.Repeat("+PONG\r\n", commands) {
			t.Errorf("%d bytes, %.200q", len(got), got)
		}
		<-sent
	})
}

// Many changes pass before the one that ends the wait.
func TestWaitPassesOtherChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.reg.declared(t)
		c := b.wait()
		for i := range 100 {
			b.reg.apply(t, &fsm.SetNode{Id: "c", Addr: fmt.Sprintf("h:%d", i+1)})
			synctest.Wait()
		}
		b.reg.apply(t, &fsm.Abort{Move: "m1", Reason: "two\r\nlines"})
		if got := c.next(); got != "-WRONG_PHASE move m1 was aborted (operator: two  lines); a owns \"app:\"\r\n" {
			t.Errorf("%q", got)
		}
	})
}

// A forced hand-over ends a move too; the answer names who owns the scope now.
func TestWaitEndedByForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.reg.declared(t)
		c := b.wait()
		sc, _ := b.reg.State().Scopes().Get("app:")
		b.reg.apply(t, &fsm.Force{Prefix: []byte("app:"), To: "c", ExpectedEpoch: sc.Epoch, AcceptLoss: true, SourceFenced: "a", Id: "f1"})
		if got := c.next(); got != "-WRONG_PHASE move m1 was aborted (forced); c owns \"app:\"\r\n" {
			t.Errorf("%q", got)
		}
	})
}

func TestMadeIDs(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	c := b.dial()
	got := strings.Split(c.ask("MOVE-SCOPE app: FROM a TO b MODE assisted ASYNC"), "\r\n")[1]
	m, ok := b.reg.State().Moves().Get(got)
	if !ok || m.Phase != migration.Quiescing || !strings.HasPrefix(got, "mv-") || len(got) != len("mv-")+16 {
		t.Errorf("%q, %+v", got, m)
	}
	contains(t, c.ask("SCOPE MOVE "+got), got)
}

// A move that is not kept any more may have been done: nothing may say that it
// was not.
func TestWaitForAForgottenMove(t *testing.T) {
	b := onTCP(t)
	b.srv.add(&command{name: "AWAIT", min: 1, max: 1, run: func(c *conn, args [][]byte) error { return c.awaitMove(string(args[0]), "app:") }})
	contains(t, b.dial().ask("AWAIT m0"), "-OUTCOME_UNKNOWN move m0 ", `SCOPE EXPLAIN tells who owns "app:"`)
}
